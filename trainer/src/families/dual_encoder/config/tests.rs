use super::*;

const B32: &str = r#"{"embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8,
    "layers": 12}}"#;

#[test]
fn openclips_own_file_gives_the_built_in_model() {
    assert_eq!(
        DualEncoderConfig::parse(B32).unwrap(),
        DualEncoderConfig::built_in("ViT-B-32").unwrap()
    );
    let wrapped = format!(r#"{{"model_cfg": {B32}, "preprocess_cfg": {{}}}}"#);
    assert_eq!(
        DualEncoderConfig::parse(&wrapped).unwrap(),
        DualEncoderConfig::built_in("ViT-B-32").unwrap()
    );
}

#[test]
fn built_in_models_are_valid_and_survive_their_json_form() {
    for name in built_in_names() {
        let config = DualEncoderConfig::built_in(&name).unwrap();
        assert_eq!(
            DualEncoderConfig::parse(&config.to_file_json().to_string()).unwrap(),
            config,
            "{name}"
        );
    }
}

#[test]
fn keys_that_change_the_computation_are_refused_by_name() {
    for (from, to, says) in [
        (
            r#""layers": 12, "width": 768"#,
            r#""layers": 12, "width": 768, "timm_model_name": "vit""#,
            "vision_cfg.timm_model_name",
        ),
        (
            r#""layers": 12, "width": 768"#,
            r#""layers": 12, "width": 768, "pool_type": "none""#,
            "vision_cfg.pool_type",
        ),
        (
            r#""layers": 12, "width": 768"#,
            r#""layers": [3, 4, 6, 3], "width": 768"#,
            "vision_cfg.layers",
        ),
        (r#""heads": 8"#, r#""heads": 8, "hf_model_name": "xlm""#, "text_cfg.hf_model_name"),
        (r#""heads": 8"#, r#""heads": 8, "pool_type": "none""#, "text_cfg.pool_type"),
        (
            r#""heads": 8"#,
            r#""heads": 8, "act_kwargs": {"approximate": "erf"}"#,
            "text_cfg.act_kwargs.approximate",
        ),
        (
            r#""heads": 8"#,
            r#""heads": 8, "norm_kwargs": {"bias": false}"#,
            "text_cfg.norm_kwargs.bias",
        ),
        (
            r#""width": 768"#,
            r#""width": 768, "attentional_pool": "parallel""#,
            "vision_cfg.attentional_pool",
        ),
        (
            r#""width": 768"#,
            r#""width": 768, "pos_embed_type": "rope""#,
            "vision_cfg.pos_embed_type",
        ),
        (r#""embed_dim": 512"#, r#""embed_dim": 512, "brand_new": 1"#, "brand_new"),
    ] {
        let text = B32.replace(from, to);
        assert_ne!(text, B32);
        let error = DualEncoderConfig::parse(&text).unwrap_err();
        assert!(error.contains(says) && error.contains("not supported yet"), "{error}");
    }
}

#[test]
fn neutral_values_of_such_keys_are_accepted() {
    let text = B32
        .replace(r#""heads": 8"#, r#""heads": 8, "pool_type": "argmax", "ls_init_value": null"#)
        .replace(
            r#""patch_size": 32"#,
            r#""patch_size": 32, "patch_dropout": 0,
        "no_ln_pre": false, "attentional_pool": false"#,
        );
    assert_eq!(
        DualEncoderConfig::parse(&text).unwrap(),
        DualEncoderConfig::built_in("ViT-B-32").unwrap()
    );
}

#[test]
fn numbers_that_do_not_fit_each_other_are_refused() {
    for (from, to, says) in [
        (r#""patch_size": 32"#, r#""patch_size": 225"#, "vision_cfg.patch_size must be at most"),
        (r#""width": 768"#, r#""width": 770"#, "vision_cfg.width must be a multiple"),
        (r#""heads": 8"#, r#""heads": 7"#, "text_cfg.width must be a multiple"),
        (r#""heads": 8"#, r#""heads": 0"#, "text_cfg.heads must be 1 to"),
        (r#""heads": 8"#, r#""heads": 8, "proj_type": "none", "width": 256"#, "text_cfg.proj_type"),
        (r#""heads": 8"#, r#""heads": 8, "embed_cls": true"#, "custom_text"),
        (
            r#""width": 768"#,
            r#""width": 768, "attentional_pool": true, "attn_pooler_heads": 7"#,
            "vision_cfg.attn_pooler_heads",
        ),
        (r#""embed_dim": 512"#, r#""embed_dim": 99999999999"#, "embed_dim must be 1 to"),
        (r#""embed_dim": 512,"#, "", "embed_dim is missing"),
    ] {
        let error = DualEncoderConfig::parse(&B32.replace(from, to)).unwrap_err();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn differences_name_the_keys() {
    let a = DualEncoderConfig::built_in("ViT-B-32").unwrap();
    let mut b = a.clone();
    assert_eq!(a.differences(&b), None);
    b.quick_gelu = true;
    b.text.heads = 4;
    let said = a.differences(&b).unwrap();
    assert!(
        said.contains("quick_gelu is false and true") && said.contains("text_cfg.heads is 8 and 4"),
        "{said}"
    );
}

#[test]
fn as_many_patches_are_kept_as_openclip_keeps() {
    let vision = DualEncoderConfig::built_in("ViT-B-32").unwrap().vision;
    // max(1, int(n · (1 - p))) in Python, with n = 16.
    for (patch_dropout, kept) in
        [(0.0, 16), (1e-17, 16), (0.01, 15), (0.25, 12), (0.5, 8), (0.7, 4), (0.9, 1), (0.99, 1)]
    {
        let vision = VisionConfig { image_size: 128, patch_dropout, ..vision.clone() };
        assert_eq!(vision.kept_patches(), kept, "{patch_dropout}");
    }
}
