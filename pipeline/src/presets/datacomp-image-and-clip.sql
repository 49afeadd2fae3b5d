-- DataComp's best baseline, image-based ∩ CLIP score: the top 30% by the cosine of ViT-L/14, English captions of at least two
-- words and more than 5 characters, in clusters of images that are nearest to an image of the target set (ImageNet). After
-- image_filter_helper and caption_filter in baselines/apply_filter.py of mlfoundations/datacomp.
-- needs: diptych score clip --model L14, diptych score language, and a column with the number of the image's nearest centroid
-- set score = clip           column with the cosine
-- set fraction = 0.3         part of all pairs that the CLIP score lets through
-- set language = language    column with the caption's language
-- set cluster = cluster      column with the number of the nearest centroid; a source's own column is text: CAST(cluster AS BIGINT)
-- set clusters               numbers of the target clusters, as 3, 17, 20 or as @FILE with them
SELECT uid FROM scored
WHERE {score} >= (SELECT top_fraction({score}, {fraction}) FROM scored)
  AND {language} = 'en'
  AND word_count(caption) > 1
  AND char_length(caption) > 5
  AND {cluster} IN ({clusters})
