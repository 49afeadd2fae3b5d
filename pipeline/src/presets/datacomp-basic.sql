-- DataComp's basic filter: English, more than 2 words, more than 5 characters, shorter edge at least 200 px, aspect at most 3.
-- After load_uids_with_basic_filter_helper in baselines/apply_filter.py of mlfoundations/datacomp. DataComp recognises English
-- by fastText; here it is the score language.
-- needs: diptych score language
-- set language = language    column with the caption's language
-- set width = width          column or expression, in pixels: original_width where images were shrunk before ingest
-- set height = height
SELECT uid FROM scored
WHERE {language} = 'en'
  AND word_count(caption) > 2
  AND char_length(caption) > 5
  AND least({width}, {height}) >= 200
  AND CAST(greatest({width}, {height}) AS DOUBLE) / least({width}, {height}) <= 3.0
