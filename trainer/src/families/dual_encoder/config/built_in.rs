//! The built-in models: OpenCLIP's ViT family under OpenCLIP's names and sizes, and our own `demo`.

use super::{
    DualEncoderConfig, ImagePool, LAYER_NORM_EPS, LOGIT_SCALE, PreprocessConfig, SIGMOID_START,
    TextConfig, TextPool, TextProjection, TokenizerConfig, Trunk, VisionConfig, timm,
};

/// The sizes of an image tower.
#[derive(Clone, Copy)]
pub(crate) struct Vit {
    layers: i64,
    width: i64,
    head_width: i64,
    mlp_ratio: f64,
}

pub(crate) const fn vit(layers: i64, width: i64, head_width: i64, mlp_ratio: f64) -> Vit {
    Vit { layers, width, head_width, mlp_ratio }
}

const S: Vit = vit(12, 384, 64, 4.0);
const M: Vit = vit(12, 512, 64, 4.0);
pub(crate) const B: Vit = vit(12, 768, 64, 4.0);
const B_PLUS: Vit = vit(12, 896, 64, 4.0);
pub(crate) const L: Vit = vit(24, 1024, 64, 4.0);
const H: Vit = vit(32, 1280, 80, 4.0);
const G: Vit = vit(40, 1408, 88, 4.3637);
const BIG_G: Vit = vit(48, 1664, 104, 4.9231);
const E: Vit = vit(56, 1792, 112, 8.5715);

/// Name, D, image tower, patch size, image size, text tower (width, heads, layers), and whether
/// there is a QuickGELU variant.
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

/// OpenCLIP's multilingual models with a Hugging Face tokenizer, which pool a text at its end
/// token.
const WORLDWIDE: &[(Row, &str, i64, i64)] = &[
    (("ViT-L-14-worldwide", 768, L, 14, 224, (768, 12, 12), true), "google/mt5-base", 250_100, 1),
    (
        ("ViT-H-14-worldwide", 1024, H, 14, 224, (1024, 16, 24), true),
        "facebook/xlm-v-base",
        901_629,
        2,
    ),
    (
        ("ViT-H-14-worldwide-378", 1024, H, 14, 378, (1024, 16, 24), false),
        "facebook/xlm-v-base",
        901_629,
        2,
    ),
    (
        ("ViT-bigG-14-worldwide", 1280, BIG_G, 14, 224, (1280, 20, 32), false),
        "facebook/xlm-v-base",
        901_629,
        2,
    ),
    (
        ("ViT-bigG-14-worldwide-378", 1280, BIG_G, 14, 378, (1280, 20, 32), false),
        "facebook/xlm-v-base",
        901_629,
        2,
    ),
];

/// OpenCLIP's `ViT-*-CLIPA.json`: BERT's tokenizer, 32 tokens, no causal mask, average pooling.
const CLIPA: &[Row] = &[
    ("ViT-L-14-CLIPA", 768, L, 14, 224, (768, 12, 12), false),
    ("ViT-L-14-CLIPA-336", 768, L, 14, 336, (768, 12, 12), false),
    ("ViT-H-14-CLIPA", 1024, H, 14, 224, (1024, 16, 24), false),
    ("ViT-H-14-CLIPA-336", 1024, H, 14, 336, (1024, 16, 24), false),
    ("ViT-bigG-14-CLIPA", 1280, BIG_G, 14, 224, (1280, 20, 32), false),
    ("ViT-bigG-14-CLIPA-336", 1280, BIG_G, 14, 336, (1280, 20, 32), false),
];

/// Name, timm's trunk, D, tokens of a text, and the text tower (width, heads, layers, MLP ratio).
type SiglipRow = (&'static str, &'static str, i64, i64, (i64, i64, i64, f64));

const TEXT_B: (i64, i64, i64, f64) = (768, 12, 12, 4.0);
const TEXT_L: (i64, i64, i64, f64) = (1024, 16, 24, 4.0);
const TEXT_SO: (i64, i64, i64, f64) = (1152, 16, 27, 3.7362);

/// OpenCLIP's `ViT-*-SigLIP*.json`.
const SIGLIP: &[SiglipRow] = &[
    ("ViT-B-16-SigLIP", "vit_base_patch16_siglip_224", 768, 64, TEXT_B),
    ("ViT-B-16-SigLIP-256", "vit_base_patch16_siglip_256", 768, 64, TEXT_B),
    ("ViT-B-16-SigLIP-i18n-256", "vit_base_patch16_siglip_256", 768, 64, TEXT_B),
    ("ViT-B-16-SigLIP-384", "vit_base_patch16_siglip_384", 768, 64, TEXT_B),
    ("ViT-B-16-SigLIP-512", "vit_base_patch16_siglip_512", 768, 64, TEXT_B),
    ("ViT-L-16-SigLIP-256", "vit_large_patch16_siglip_256", 1024, 64, TEXT_L),
    ("ViT-L-16-SigLIP-384", "vit_large_patch16_siglip_384", 1024, 64, TEXT_L),
    ("ViT-SO400M-14-SigLIP", "vit_so400m_patch14_siglip_224", 1152, 16, TEXT_SO),
    ("ViT-SO400M-14-SigLIP-378", "vit_so400m_patch14_siglip_378", 1152, 64, TEXT_SO),
    ("ViT-SO400M-14-SigLIP-384", "vit_so400m_patch14_siglip_384", 1152, 64, TEXT_SO),
    ("ViT-SO400M-16-SigLIP-i18n-256", "vit_so400m_patch16_siglip_256", 1152, 64, TEXT_SO),
    ("ViT-B-32-SigLIP2-256", "vit_base_patch32_siglip_256", 768, 64, TEXT_B),
    ("ViT-B-16-SigLIP2", "vit_base_patch16_siglip_224", 768, 64, TEXT_B),
    ("ViT-B-16-SigLIP2-256", "vit_base_patch16_siglip_256", 768, 64, TEXT_B),
    ("ViT-B-16-SigLIP2-384", "vit_base_patch16_siglip_384", 768, 64, TEXT_B),
    ("ViT-B-16-SigLIP2-512", "vit_base_patch16_siglip_512", 768, 64, TEXT_B),
    ("ViT-L-16-SigLIP2-256", "vit_large_patch16_siglip_256", 1024, 64, TEXT_L),
    ("ViT-L-16-SigLIP2-384", "vit_large_patch16_siglip_384", 1024, 64, TEXT_L),
    ("ViT-L-16-SigLIP2-512", "vit_large_patch16_siglip_512", 1024, 64, TEXT_L),
    ("ViT-SO400M-14-SigLIP2", "vit_so400m_patch14_siglip_224", 1152, 64, TEXT_SO),
    ("ViT-SO400M-14-SigLIP2-378", "vit_so400m_patch14_siglip_378", 1152, 64, TEXT_SO),
    ("ViT-SO400M-16-SigLIP2-256", "vit_so400m_patch16_siglip_256", 1152, 64, TEXT_SO),
    ("ViT-SO400M-16-SigLIP2-384", "vit_so400m_patch16_siglip_384", 1152, 64, TEXT_SO),
    ("ViT-SO400M-16-SigLIP2-512", "vit_so400m_patch16_siglip_512", 1152, 64, TEXT_SO),
    ("ViT-gopt-16-SigLIP2-256", "vit_giantopt_patch16_siglip_256", 1536, 64, TEXT_SO),
    ("ViT-gopt-16-SigLIP2-384", "vit_giantopt_patch16_siglip_384", 1536, 64, TEXT_SO),
];

const QUICK: &str = "-quickgelu";

/// Returns the names of all built-in dual encoders.
pub(crate) fn built_in_names() -> Vec<String> {
    let rows = CLIP.iter().chain(WORLDWIDE.iter().map(|(row, ..)| row)).chain(CLIPA);
    let siglip = SIGLIP.iter().map(|(name, ..)| (*name).to_owned());
    let named = rows.flat_map(|(name, .., quick)| {
        let variant = quick.then(|| format!("{name}{QUICK}"));
        [(*name).to_owned()].into_iter().chain(variant)
    });
    [DEMO.to_owned()].into_iter().chain(named).chain(siglip).collect()
}

const DEMO: &str = "demo";

impl DualEncoderConfig {
    /// Returns the model with one of the names of [`built_in_names`].
    pub fn built_in(name: &str) -> Option<Self> {
        if name == DEMO {
            return Some(demo());
        }
        let (of, quick_gelu) = match name.strip_suffix(QUICK) {
            Some(of) => (of, true),
            None => (name, false),
        };
        let is_named = |row: &Row| row.0 == of && (row.6 || !quick_gelu);
        if let Some(row) = CLIP.iter().find(|row| is_named(row)) {
            let mut config = clip(row, quick_gelu);
            if of == "ViT-M-16-alt" {
                config.vision.ls_init_value = Some(1e-4);
            }
            return Some(config);
        }
        if let Some(row) = CLIPA.iter().find(|row| is_named(row)) {
            return Some(clipa(row));
        }
        if let Some(row) = SIGLIP.iter().find(|row| row.0 == name) {
            return siglip(row);
        }
        let (row, tokenizer, vocab_size, end) = WORLDWIDE.iter().find(|(row, ..)| is_named(row))?;
        let mut config = clip(row, quick_gelu);
        config.text.vocab_size = *vocab_size;
        config.text.pool = TextPool::End(*end);
        config.text.tokenizer = TokenizerConfig {
            name: Some((*tokenizer).to_owned()),
            canonical: *tokenizer == "google/mt5-base",
            ..TokenizerConfig::default()
        };
        Some(config)
    }
}

fn clip(
    &(_, embed_dim, vit, patch_size, image_size, text, _): &Row,
    quick_gelu: bool,
) -> DualEncoderConfig {
    DualEncoderConfig {
        embed_dim,
        quick_gelu,
        init_logit_scale: LOGIT_SCALE,
        init_logit_bias: None,
        custom_text: false,
        vision: vision(vit, patch_size, image_size),
        text: causal_text(text),
        preprocess: PreprocessConfig::default(),
    }
}

fn clipa(row: &Row) -> DualEncoderConfig {
    let mut config = clip(row, false);
    (config.vision.ln_pre, config.vision.pool, config.vision.final_ln_after_pool) =
        (false, ImagePool::Average, true);
    (config.text.context_length, config.text.vocab_size) = (32, 32_000);
    (config.text.pool, config.text.causal) = (TextPool::Last, false);
    config.text.tokenizer = TokenizerConfig {
        name: Some("bert-base-uncased".to_owned()),
        strip_sep_token: true,
        ..TokenizerConfig::default()
    };
    config.preprocess = PreprocessConfig::CLIPA;
    config
}

fn siglip(
    &(name, trunk, embed_dim, context_length, (width, heads, layers, mlp_ratio)): &SiglipRow,
) -> Option<DualEncoderConfig> {
    let (second, i18n) = (name.contains("SigLIP2"), name.contains("i18n"));
    let vocab_size = match (second, i18n) {
        (true, _) => 256_000,
        (false, true) => 250_000,
        (false, false) => 32_000,
    };
    // All SigLIP models with 32,000 tokens share one tokenizer, and so do the multilingual ones.
    let tokenizer = match (second, i18n) {
        (true, _) => name,
        (false, true) => "ViT-B-16-SigLIP-i18n-256",
        (false, false) => "ViT-B-16-SigLIP",
    };
    Some(DualEncoderConfig {
        embed_dim,
        quick_gelu: false,
        init_logit_scale: LOGIT_SCALE,
        init_logit_bias: Some(SIGMOID_START.1),
        custom_text: true,
        vision: timm::trunk(trunk)?,
        text: TextConfig {
            context_length,
            vocab_size,
            mlp_ratio,
            pool: TextPool::Last,
            causal: false,
            projection: if name.starts_with("ViT-SO400M-16-SigLIP-i18n") {
                TextProjection::None
            } else {
                TextProjection::Linear
            },
            layer_norm_eps: SIGLIP_EPS,
            gelu_tanh: second,
            // As in big_vision's configurations, SigLIP pads with the end token and SigLIP 2 with
            // Gemma's padding token.
            tokenizer: TokenizerConfig {
                name: Some(format!("timm/{tokenizer}")),
                pad_id: Some(i64::from(!second)),
                canonical: true,
                strip_sep_token: false,
            },
            ..causal_text((width, heads, layers))
        },
        preprocess: PreprocessConfig::SIGLIP,
    })
}

/// The layer norm epsilon of big_vision and timm.
const SIGLIP_EPS: f64 = 1e-6;

/// Makes an image tower of SigLIP. Options of other towers have the values that turn them off.
pub(crate) fn siglip_vision(size: Vit, patch_size: i64, image_size: i64) -> VisionConfig {
    let plain = vision(size, patch_size, image_size);
    VisionConfig { trunk: Trunk::Siglip, ln_pre: false, layer_norm_eps: SIGLIP_EPS, ..plain }
}

fn vision(
    Vit { layers, width, head_width, mlp_ratio }: Vit,
    patch_size: i64,
    image_size: i64,
) -> VisionConfig {
    VisionConfig {
        trunk: Trunk::OpenClip,
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

/// Makes CLIP's text tower, as in section 2.4 of the paper.
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
        bert: None,
        tokenizer: TokenizerConfig { pad_id: Some(0), ..TokenizerConfig::default() },
    }
}

/// Makes a model small enough to train in minutes on two cores.
fn demo() -> DualEncoderConfig {
    let row = (DEMO, 128, vit(4, 128, 32, 4.0), 8, 64, (128, 4, 3), false);
    let mut config = clip(&row, false);
    config.text.context_length = 32;
    config
}
