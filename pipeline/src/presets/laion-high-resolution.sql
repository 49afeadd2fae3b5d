-- LAION-High-Resolution: images of at least 1024 × 1024 px.
SELECT uid FROM scored
WHERE width >= 1024
  AND height >= 1024
