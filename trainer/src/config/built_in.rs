//! The models that have a name: OpenCLIP's ViT family under OpenCLIP's names, with its numbers, and `demo`, which is ours.

use super::{
    ImagePool, LAYER_NORM_EPS, LOGIT_SCALE, ModelConfig, TextConfig, TextPool, TextProjection, TokenizerConfig, VisionConfig,
};

/// Sizes of an image tower.
#[derive(Clone, Copy)]
struct Vit {
    layers: i64,
    width: i64,
    head_width: i64,
    mlp_ratio: f64,
}

const fn vit(layers: i64, width: i64, head_width: i64, mlp_ratio: f64) -> Vit {
    Vit { layers, width, head_width, mlp_ratio }
}

const S: Vit = vit(12, 384, 64, 4.0);
const M: Vit = vit(12, 512, 64, 4.0);
const B: Vit = vit(12, 768, 64, 4.0);
const B_PLUS: Vit = vit(12, 896, 64, 4.0);
const L: Vit = vit(24, 1024, 64, 4.0);
const H: Vit = vit(32, 1280, 80, 4.0);
const G: Vit = vit(40, 1408, 88, 4.3637);
const BIG_G: Vit = vit(48, 1664, 104, 4.9231);
const E: Vit = vit(56, 1792, 112, 8.5715);

/// Name, D, image tower, patch size, image size, text tower as width, heads and layers, and whether there is a variant with
/// QuickGELU.
type Row = (&'static str, i64, Vit, i64, i64, (i64, i64, i64), bool);

/// OpenCLIP's `ViT-*.json` with CLIP's tokenizer.
const CLIP: &[Row] = &[
    ("ViT-S-32-alt", 256, S, 32, 224, (256, 4, 10), false),
    ("ViT-S-32", 384, S, 32, 224, (384, 6, 12), false),
    ("ViT-S-16-alt", 256, S, 16, 224, (256, 4, 10), false),
    ("ViT-S-16", 384, S, 16, 224, (384, 6, 12), false),
    ("ViT-M-32-alt", 384, M, 32, 224, (384, 6, 12), false),
    ("ViT-M-32", 512, M, 32, 224, (512, 8, 12), false),
    ("ViT-M-16-alt", 384, M, 16, 224, (384, 6, 12), false),
    ("ViT-M-16", 512, M, 16, 224, (512, 8, 12), false),
    ("ViT-B-32", 512, B, 32, 224, (512, 8, 12), true),
    ("ViT-B-32-256", 512, B, 32, 256, (512, 8, 12), false),
    ("ViT-B-32-plus-256", 640, B_PLUS, 32, 256, (640, 10, 12), false),
    ("ViT-B-16", 512, B, 16, 224, (512, 8, 12), true),
    ("ViT-B-16-plus", 640, B_PLUS, 16, 224, (640, 10, 12), false),
    ("ViT-B-16-plus-240", 640, B_PLUS, 16, 240, (640, 10, 12), false),
    ("ViT-L-16", 768, L, 16, 224, (768, 12, 12), false),
    ("ViT-L-16-320", 768, L, 16, 320, (768, 12, 12), false),
    ("ViT-L-14", 768, L, 14, 224, (768, 12, 12), true),
    ("ViT-L-14-280", 768, L, 14, 280, (768, 12, 12), false),
    ("ViT-L-14-336", 768, L, 14, 336, (768, 12, 12), true),
    ("ViT-H-16", 1024, H, 16, 224, (1024, 16, 24), false),
    ("ViT-H-14", 1024, H, 14, 224, (1024, 16, 24), true),
    ("ViT-H-14-378", 1024, H, 14, 378, (1024, 16, 24), true),
    ("ViT-g-14", 1024, G, 14, 224, (1024, 16, 24), false),
    ("ViT-bigG-14", 1280, BIG_G, 14, 224, (1280, 20, 32), true),
    ("ViT-e-14", 1280, E, 14, 224, (1280, 20, 36), false),
];

/// OpenCLIP's multilingual ones: text is pooled at the end token of a tokenizer of Hugging Face's.
const WORLDWIDE: &[(Row, &str, i64, i64)] = &[
    (("ViT-L-14-worldwide", 768, L, 14, 224, (768, 12, 12), true), "google/mt5-base", 250_100, 1),
    (("ViT-H-14-worldwide", 1024, H, 14, 224, (1024, 16, 24), true), "facebook/xlm-v-base", 901_629, 2),
    (("ViT-H-14-worldwide-378", 1024, H, 14, 378, (1024, 16, 24), false), "facebook/xlm-v-base", 901_629, 2),
    (("ViT-bigG-14-worldwide", 1280, BIG_G, 14, 224, (1280, 20, 32), false), "facebook/xlm-v-base", 901_629, 2),
    (("ViT-bigG-14-worldwide-378", 1280, BIG_G, 14, 378, (1280, 20, 32), false), "facebook/xlm-v-base", 901_629, 2),
];

const QUICK: &str = "-quickgelu";

/// Names of all built-in models.
pub fn built_in_names() -> Vec<String> {
    let rows = CLIP.iter().chain(WORLDWIDE.iter().map(|(row, ..)| row));
    let named = rows.flat_map(|(name, .., quick)| {
        let variant = quick.then(|| format!("{name}{QUICK}"));
        [(*name).to_owned()].into_iter().chain(variant)
    });
    [DEMO.to_owned()].into_iter().chain(named).collect()
}

const DEMO: &str = "demo";

impl ModelConfig {
    /// One of [`built_in_names`].
    pub fn built_in(name: &str) -> Option<Self> {
        if name == DEMO {
            return Some(demo());
        }
        let (of, quick_gelu) = match name.strip_suffix(QUICK) {
            Some(of) => (of, true),
            None => (name, false),
        };
        let wanted = |row: &Row| row.0 == of && (row.6 || !quick_gelu);
        if let Some(row) = CLIP.iter().find(|row| wanted(row)) {
            let mut config = clip(row, quick_gelu);
            if of == "ViT-M-16-alt" {
                config.vision.ls_init_value = Some(1e-4);
            }
            return Some(config);
        }
        let (row, tokenizer, vocab_size, end) = WORLDWIDE.iter().find(|(row, ..)| wanted(row))?;
        let mut config = clip(row, quick_gelu);
        config.text.vocab_size = *vocab_size;
        config.text.pool = TextPool::End(*end);
        config.text.tokenizer = TokenizerConfig { name: Some((*tokenizer).to_owned()), pad_id: None };
        Some(config)
    }
}

fn clip(&(_, embed_dim, vit, patch_size, image_size, text, _): &Row, quick_gelu: bool) -> ModelConfig {
    ModelConfig {
        embed_dim,
        quick_gelu,
        init_logit_scale: LOGIT_SCALE,
        init_logit_bias: None,
        custom_text: false,
        vision: vision(vit, patch_size, image_size),
        text: causal_text(text),
    }
}

fn vision(Vit { layers, width, head_width, mlp_ratio }: Vit, patch_size: i64, image_size: i64) -> VisionConfig {
    VisionConfig {
        image_size,
        patch_size,
        width,
        head_width,
        layers,
        mlp_ratio,
        ls_init_value: None,
        patch_dropout: 0.0,
        attentional_pool: None,
        pool: ImagePool::Token,
        final_ln_after_pool: false,
        ln_pre: true,
        sin_cos_positions: false,
        layer_norm_eps: LAYER_NORM_EPS,
        gelu_tanh: false,
    }
}

/// CLIP's: section 2.4.
fn causal_text((width, heads, layers): (i64, i64, i64)) -> TextConfig {
    TextConfig {
        context_length: 77,
        vocab_size: 49408,
        width,
        heads,
        layers,
        mlp_ratio: 4.0,
        ls_init_value: None,
        pool: TextPool::Largest,
        causal: true,
        class_token: false,
        projection: TextProjection::Matrix,
        layer_norm_eps: LAYER_NORM_EPS,
        gelu_tanh: false,
        tokenizer: TokenizerConfig { name: None, pad_id: Some(0) },
    }
}

/// Small enough to train in minutes on two cores.
fn demo() -> ModelConfig {
    let row = (DEMO, 128, vit(4, 128, 32, 4.0), 8, 64, (128, 4, 3), false);
    let mut config = clip(&row, false);
    config.text.context_length = 32;
    config
}
