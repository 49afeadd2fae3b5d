-- LAION-400M's filter: English captions of at least 5 characters, images of at least 5 KB, cosine of ViT-B/32 at least 0.3
-- (Schuhmann and others, 2021, section 2.1; in crawling@home's code English is what CLD2 names first, 5 KB are 5,000 bytes, and
-- what is below 0.3 is dropped).
-- needs: diptych score clip --model B32, diptych score language
-- set score = clip           column with the cosine
-- set language = language    column with the caption's language
SELECT uid FROM scored
WHERE {language} = 'en'
  AND char_length(caption) >= 5
  AND bytes >= 5000
  AND {score} >= 0.3
