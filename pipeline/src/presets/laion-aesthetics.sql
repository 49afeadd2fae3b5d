-- LAION-Aesthetics V2: predicted aesthetic score at least 4.5. LAION published 4.5, 4.75, 5, 6, 6.25 and 6.5; Stable Diffusion
-- used those of at least 512 px (--set edge=512).
-- needs: the column aesthetic of LAION's metadata, as the source brings it (text), or a score
-- set aesthetic = CAST(aesthetic AS DOUBLE)
-- set least = 4.5            aesthetic score from which a pair stays
-- set edge = 0               shorter edge from which a pair stays, in pixels
SELECT uid FROM scored
WHERE {aesthetic} >= {least}
  AND least(width, height) >= {edge}
