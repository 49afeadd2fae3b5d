-- LAION-400M's filter: captions of at least 5 characters, images of at least 5 KB, cosine of ViT-B/32 at least 0.3
-- (Schuhmann and others, 2021, section 2.1; 5 KB are 5,000 bytes in the code of crawling@home).
-- needs: diptych score clip --model B32
-- set score = clip           column with the cosine
SELECT uid FROM scored
WHERE char_length(caption) >= 5
  AND bytes >= 5000
  AND {score} >= 0.3
