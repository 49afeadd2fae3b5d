"""Makes the reference values of trainer/tests/evaluate.rs on small synthetic embeddings.

The values are those of scikit-learn, torchmetrics, CLIP_benchmark and scipy.

    pip install scikit-learn scipy torchmetrics clip-benchmark
    python make_evaluation_values.py

Writes ../data/evaluation.safetensors (inputs) and ../data/evaluation.json (values). Made with
scikit-learn 1.9.1, scipy 1.17.1, torchmetrics 1.9.0, clip-benchmark 1.6.2, torch 2.11.0.
"""

import importlib.metadata
import json
import pathlib
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from clip_benchmark.metrics.zeroshot_classification import average_precision_per_class
from clip_benchmark.metrics.zeroshot_retrieval import recall_at_k
from safetensors.numpy import save_file
from scipy.stats import binom, binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, confusion_matrix, log_loss
from sklearn.metrics import precision_recall_fscore_support, top_k_accuracy_score
from torchmetrics.classification import MulticlassCalibrationError, MultilabelAveragePrecision

DATA = pathlib.Path(__file__).parent.parent / "data"
rng = np.random.default_rng(6)
values = {"made_with": {name: importlib.metadata.version(name) for name in
                        ["scikit-learn", "scipy", "torchmetrics", "clip-benchmark", "torch", "numpy"]}}


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


# Retrieval: 90 images with two to four captions, in mixed order.
N, D = 90, 12
images = unit(rng.normal(size=(N, D)))
image_of_text = np.concatenate([np.full(rng.integers(2, 5), i) for i in range(N)])
rng.shuffle(image_of_text)
texts = unit(images[image_of_text] + 0.42 * rng.normal(size=(len(image_of_text), D)))
scores = torch.tensor(texts) @ torch.tensor(images).T
positive = torch.zeros_like(scores, dtype=bool)
positive[torch.arange(len(scores)), torch.tensor(image_of_text)] = True


def median_rank(scores, positive):
    order = scores.argsort(dim=1, descending=True)
    return float(np.median([1 + int(p[o].nonzero()[0]) for o, p in zip(order, positive)]))


values["retrieval"] = {
    "text_to_image": [(recall_at_k(scores, positive, k) > 0).double().mean().item() for k in (1, 5, 10)],
    "image_to_text": [(recall_at_k(scores.T, positive.T, k) > 0).double().mean().item() for k in (1, 5, 10)],
    "median_rank_text_to_image": median_rank(scores, positive),
    "median_rank_image_to_text": median_rank(scores.T, positive.T),
}

# Classification: 260 noisy images of 7 classes of different sizes.
C, M = 7, 260
classes = unit(rng.normal(size=(C, D)))
labels = rng.choice(C, size=M, p=np.arange(1, C + 1) / 28)
points = unit(classes[labels] + 0.62 * rng.normal(size=(M, D)))
logits = 10.0 * torch.tensor(points) @ torch.tensor(classes).T
target = torch.tensor(labels)
predicted = logits.argmax(1)
# CLIP_benchmark's own `accuracy`, which counts the same, does not run with numpy 2.4.
top1, top5 = (float(top_k_accuracy_score(labels, logits.numpy(), k=k)) for k in (1, 5))
precision, recall, _, support = precision_recall_fscore_support(labels, predicted.numpy())
values["classification"] = {
    "top1": top1, "top5": top5, "mean_per_class": balanced_accuracy_score(labels, predicted.numpy()),
    "confusion": confusion_matrix(labels, predicted.numpy()).ravel().tolist(),
    "precision": precision.tolist(), "recall": recall.tolist(), "support": support.tolist(),
    "ece_15": MulticlassCalibrationError(num_classes=C, n_bins=15, norm="l1")(logits.double().softmax(1), target).item(),
    "mce_15": MulticlassCalibrationError(num_classes=C, n_bins=15, norm="max")(logits.double().softmax(1), target).item(),
}

# Several classes per image; the last class has no image. Embeddings are rounded, so that some scores
# are equal.
several = (rng.random((M, C)) < 0.25) | (np.arange(C) == labels[:, None])
several[:, -1] = False
coarse_points, coarse_classes = np.round(points * 2).astype(np.float32), np.round(classes * 2).astype(np.float32)
coarse = coarse_points @ coarse_classes.T
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    metric = MultilabelAveragePrecision(num_labels=C, average=None)
    values["multi_label"] = {
        "sklearn": [float(average_precision_score(several[:, c], logits[:, c].numpy())) for c in range(C - 1)],
        "sklearn_with_ties": [float(average_precision_score(several[:, c], coarse[:, c])) for c in range(C - 1)],
        "torchmetrics": metric(logits, torch.tensor(several).long()).tolist()[:-1],
        "clip_benchmark": average_precision_per_class(logits, torch.tensor(several)).tolist()[:-1],
    }

# Nearest neighbours as DINO's eval_knn.py weighs them: exp(cosine / T) of the k nearest, summed by class.
train, test = points[:180], points[180:]
similarity, indices = (torch.tensor(test) @ torch.tensor(train).T).topk(20, largest=True, sorted=True)
one_hot = F.one_hot(torch.tensor(labels[:180])[indices], C)
values["knn"] = {
    "weighted": torch.sum(one_hot * similarity.div(0.07).exp_().unsqueeze(-1), 1).argmax(1).tolist(),
    "majority": one_hot.sum(1).argmax(1).tolist(),
}

# Linear probes: strong and weak regularisation, with two and with several classes.
values["probe"] = []
for count, keep in ((C, np.arange(180)), (2, np.flatnonzero(labels[:180] >= 5))):
    own = labels[:180][keep] - (C - count)
    for strength in (1e-2, 0.316, 10.0, 1e4):
        model = LogisticRegression(C=strength, max_iter=20000, tol=1e-10).fit(train[keep].astype(np.float64), own)
        held = labels[180:] >= C - count
        values["probe"].append({
            "classes": count, "c": strength,
            "loss": log_loss(own, model.predict_proba(train[keep].astype(np.float64))),
            "test_loss": log_loss(labels[180:][held] - (C - count), model.predict_proba(test[held].astype(np.float64))),
            "test_accuracy": model.score(test[held].astype(np.float64), labels[180:][held] - (C - count)),
        })

# Uncertainty.
values["trust"] = {
    # Percentile bootstrap of a mean of zeros and ones: resampled hits are binomial.
    "interval_of_240_in_400": [float(q) / 400 for q in binom.ppf([0.025, 0.975], 400, 0.6)],
    "mcnemar": [[a, b, float(binomtest(a, a + b, 0.5).pvalue)] for a, b in ((9, 2), (30, 31), (0, 12), (140, 90), (4, 4))],
    "wilson": [[k, n, *map(float, binomtest(k, n).proportion_ci(method="wilson"))] for k, n in ((0, 9), (9, 9), (1, 1), (10, 50), (3, 7))],
    "quantiles": [float(q) for q in np.quantile(np.arange(10.0) ** 2, [0.025, 0.5, 0.975])],
}

# Geometry: Liang et al. 2022, Wang and Isola 2020, Roy and Vetterli 2007.
paired, matching = torch.tensor(texts).double(), torch.tensor(images[image_of_text]).double()
sigma = torch.linalg.svdvals(matching)
share = sigma / sigma.sum()
centred = torch.linalg.svdvals(matching - matching.mean(0))
centred_share = centred / centred.sum()
values["geometry"] = {
    "gap": (matching.mean(0) - paired.mean(0)).norm().item(),
    "alignment": (matching - paired).norm(p=2, dim=1).pow(2).mean().item(),
    "uniformity": torch.pdist(paired, p=2).pow(2).mul(-2).exp().mean().log().item(),
    "effective_rank": (-(share * share.log()).sum()).exp().item(),
    "effective_rank_centred": (-(centred_share * centred_share.log()).sum()).exp().item(),
}

DATA.mkdir(exist_ok=True)
save_file({
    "images": images, "texts": texts, "image_of_text": image_of_text.astype(np.int64), "classes": classes,
    "labels": labels.astype(np.int64), "points": points, "coarse_points": coarse_points, "coarse_classes": coarse_classes,
    "several": several.astype(np.int64),
}, DATA / "evaluation.safetensors")
(DATA / "evaluation.json").write_text(json.dumps(values, indent=1) + "\n")
