-- DataComp's CLIP score filter: the top 30% by the cosine of ViT-L/14. The threshold is element int(0.3 · n), from 0, of the
-- scores in descending order, and pairs at the threshold stay. After load_uids_with_clip_score and get_threshold in
-- baselines/apply_filter.py of mlfoundations/datacomp.
-- needs: diptych score clip --model L14
-- set score = clip           column with the cosine; a source's own column is text: CAST(clip_l14_similarity_score AS DOUBLE)
-- set fraction = 0.3         part of the pairs that stays
SELECT uid FROM scored
WHERE {score} >= (SELECT top_fraction({score}, {fraction}) FROM scored)
