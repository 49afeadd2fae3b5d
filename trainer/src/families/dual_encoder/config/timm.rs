//! timm's trunks for SigLIP, by name. OpenCLIP's configurations contain only these names.

use super::VisionConfig;
use super::built_in::{B, L, Vit, siglip_vision, vit};

const SO400M: Vit = vit(27, 1152, 72, 3.7362);
const GIANT_OPT: Vit = vit(40, 1536, 96, 4.0);

/// Name, size, patch size, image size, and whether GELU is approximated by tanh.
const TRUNKS: &[(&str, Vit, i64, i64, bool)] = &[
    ("vit_base_patch32_siglip_256", B, 32, 256, false),
    ("vit_base_patch16_siglip_224", B, 16, 224, false),
    ("vit_base_patch16_siglip_256", B, 16, 256, false),
    ("vit_base_patch16_siglip_384", B, 16, 384, false),
    ("vit_base_patch16_siglip_512", B, 16, 512, false),
    ("vit_large_patch16_siglip_256", L, 16, 256, false),
    ("vit_large_patch16_siglip_384", L, 16, 384, false),
    ("vit_large_patch16_siglip_512", L, 16, 512, false),
    ("vit_so400m_patch14_siglip_224", SO400M, 14, 224, false),
    ("vit_so400m_patch14_siglip_378", SO400M, 14, 378, false),
    ("vit_so400m_patch14_siglip_384", SO400M, 14, 384, false),
    ("vit_so400m_patch16_siglip_256", SO400M, 16, 256, false),
    ("vit_so400m_patch16_siglip_384", SO400M, 16, 384, false),
    ("vit_so400m_patch16_siglip_512", SO400M, 16, 512, false),
    ("vit_giantopt_patch16_siglip_256", GIANT_OPT, 16, 256, true),
    ("vit_giantopt_patch16_siglip_384", GIANT_OPT, 16, 384, true),
];

/// Returns the tower with a name.
pub(crate) fn trunk(name: &str) -> Option<VisionConfig> {
    let &(_, size, patch_size, image_size, gelu_tanh) =
        TRUNKS.iter().find(|(known, ..)| *known == name)?;
    Some(VisionConfig { gelu_tanh, ..siglip_vision(size, patch_size, image_size) })
}

/// Returns timm's name for a tower, if it has one.
pub(crate) fn name(config: &VisionConfig) -> Option<&'static str> {
    // Two ratios may round down to the same hidden layer.
    let same = |trunk: VisionConfig| {
        trunk.mlp_width() == config.mlp_width()
            && VisionConfig { patch_dropout: 0.0, mlp_ratio: trunk.mlp_ratio, ..config.clone() }
                == trunk
    };
    TRUNKS.iter().map(|(name, ..)| *name).find(|name| trunk(name).is_some_and(same))
}
