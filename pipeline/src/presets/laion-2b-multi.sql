-- LAION-2B-multi's filter: captions of at least 5 characters that are not English, images of at least 5 KB, cosine of the
-- multilingual CLIP at least 0.26 (Schuhmann and others, 2022, section 3).
-- needs: diptych score clip --model MCLIP, diptych score language
-- set score = clip           column with the cosine
-- set language = language    column with the caption's language; pairs without one are LAION-1B-nolang and left out
SELECT uid FROM scored
WHERE {language} <> 'en'
  AND char_length(caption) >= 5
  AND bytes >= 5000
  AND {score} >= 0.26
