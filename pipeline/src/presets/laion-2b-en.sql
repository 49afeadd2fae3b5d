-- LAION-2B-en's filter: English captions of at least 5 characters, images of at least 5 KB, cosine of ViT-B/32 at least 0.28
-- (Schuhmann and others, 2022, section 3; 5 KB are 5,000 bytes in the code of crawling@home). LAION recognises English by
-- CLD3; here it is the score language.
-- needs: diptych score clip --model B32, diptych score language
-- set score = clip           column with the cosine
-- set language = language    column with the caption's language
SELECT uid FROM scored
WHERE {language} = 'en'
  AND char_length(caption) >= 5
  AND bytes >= 5000
  AND {score} >= 0.28
