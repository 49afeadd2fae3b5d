//! The configuration of a masked language model, in the keys of Hugging Face's `BertConfig`.
//!
//! Invariant: a configuration that exists can be computed. A key that changes the result and is not
//! supported is refused by name.

use diptych_schemas::ObjectiveConfig;
use serde_json::{Value, json};

use crate::formats::hugging_face::fields::{Fields, activation_name};
use crate::nn::activation::Activation;
use crate::nn::bert::{BERT_INIT, BertShape};
use crate::nn::compare::compare_keys;
use crate::nn::cost::{SampleSize, layers, product};
use crate::nn::parameters::{Depth, Init, ParameterList, ParameterSpec, Part};
use crate::nn::preprocess::{ImageInput, TextInput, TokenizerConfig};

/// The configuration of a masked language model.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskedLmConfig {
    /// Tokens of a text in training, L: at most the number of positions.
    pub context_length: i64,
    pub(crate) shape: BertShape,
    pub(crate) tokenizer: TokenizerConfig,
}

/// Name, layers, width and heads. Turc et al., "Well-read students learn better", 2019, table 1.
/// BERT-large is from Devlin et al.
const BUILT_IN: [(&str, i64, i64, i64); 6] = [
    ("bert-tiny", 2, 128, 2),
    ("bert-mini", 4, 256, 4),
    ("bert-small", 4, 512, 8),
    ("bert-medium", 8, 512, 8),
    ("bert-base", 12, 768, 12),
    ("bert-large", 24, 1024, 16),
];
/// The value of `model_type` in the file.
pub(crate) const MODEL_TYPE: &str = "bert";

/// Returns the names of the built-in masked language models.
pub(crate) fn built_in_names() -> Vec<String> {
    BUILT_IN.iter().map(|(name, ..)| (*name).to_owned()).collect()
}

impl MaskedLmConfig {
    pub(crate) fn built_in(name: &str) -> Option<Self> {
        let (_, layers, width, heads) = BUILT_IN.into_iter().find(|(known, ..)| *known == name)?;
        // All else is the default of BertConfig.
        let json = json!({
            "num_hidden_layers": layers,
            "hidden_size": width,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
        });
        Self::from_json(&json).ok()
    }

    /// Returns whether a file belongs to this family.
    pub(crate) fn recognises(json: &Value) -> bool {
        json["model_type"] == MODEL_TYPE
    }

    /// Parses and checks a `config.json`. Absent keys have the defaults of transformers'
    /// `BertConfig`.
    ///
    /// Dropout is left out: it changes no output, and this trainer trains without it.
    pub(crate) fn from_json(json: &Value) -> Result<Self, String> {
        let fields = Fields::top(json);
        for (key, ours) in [
            ("position_embedding_type", json!("absolute")),
            ("is_decoder", json!(false)),
            ("add_cross_attention", json!(false)),
            ("tie_word_embeddings", json!(true)),
            ("embedding_size", Value::Null),
        ] {
            fields.only(key, &ours)?;
        }
        let width = fields.integer("hidden_size", 768)?;
        let shape = BertShape {
            vocabulary: fields.integer("vocab_size", 30522)?,
            positions: fields.integer("max_position_embeddings", 512)?,
            token_types: fields.integer("type_vocab_size", 2)?,
            width,
            heads: fields.integer("num_attention_heads", 12)?,
            layers: fields.integer("num_hidden_layers", 12)?,
            mlp_width: fields.integer("intermediate_size", 3072)?,
            activation: fields.activation(Activation::Gelu)?,
            layer_norm_eps: fields.number("layer_norm_eps", 1e-12)?,
            pad_id: json["pad_token_id"].as_i64().unwrap_or(0),
        };
        // This key is ours. transformers leaves the length to the caller of the tokenizer.
        let context_length = fields.integer("context_length", shape.positions)?;
        let config = Self {
            context_length,
            tokenizer: TokenizerConfig {
                name: Some("tokenizer.json".into()),
                pad_id: Some(shape.pad_id),
                ..TokenizerConfig::default()
            },
            shape,
        };
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<(), String> {
        let BertShape {
            vocabulary,
            positions,
            width,
            heads,
            layers,
            mlp_width,
            pad_id,
            token_types,
            ..
        } = self.shape;
        for (key, value, largest) in [
            ("vocab_size", vocabulary, 4_000_000),
            ("max_position_embeddings", positions, 65_536),
            ("type_vocab_size", token_types, 65_536),
            ("hidden_size", width, 16_384),
            ("num_hidden_layers", layers, 256),
            ("intermediate_size", mlp_width, 1_048_576),
        ] {
            if value > largest {
                return Err(format!("{key} must be at most {largest}, got {value}"));
            }
        }
        if width % heads != 0 {
            return Err(format!(
                "hidden_size must be a multiple of num_attention_heads, got {width} and {heads}"
            ));
        }
        if !(0..vocabulary).contains(&pad_id) {
            return Err(format!("pad_token_id must be 0 to {}, got {pad_id}", vocabulary - 1));
        }
        if !(3..=positions).contains(&self.context_length) {
            let length = self.context_length;
            return Err(format!(
                "context_length must be 3 to {positions} (max_position_embeddings), got {length}"
            ));
        }
        Ok(())
    }

    /// Returns the `config.json` of `BertForMaskedLM`.
    pub(crate) fn to_file_json(&self) -> Value {
        let shape = &self.shape;
        let mut json = json!({
            "architectures": ["BertForMaskedLM"],
            "attention_probs_dropout_prob": 0.0,
            "hidden_act": activation_name(shape.activation),
            "hidden_dropout_prob": 0.0,
            "hidden_size": shape.width,
            "initializer_range": 0.02,
            "intermediate_size": shape.mlp_width,
            "layer_norm_eps": shape.layer_norm_eps,
            "max_position_embeddings": shape.positions,
            "model_type": MODEL_TYPE,
            "num_attention_heads": shape.heads,
            "num_hidden_layers": shape.layers,
            "pad_token_id": shape.pad_id,
            "tie_word_embeddings": true,
            "type_vocab_size": shape.token_types,
            "vocab_size": shape.vocabulary,
        });
        if self.context_length != shape.positions {
            json["context_length"] = json!(self.context_length);
        }
        json
    }

    /// Lists the keys in which another configuration describes a different model.
    ///
    /// The length to which texts are cut does not change the model.
    pub(crate) fn differences(&self, other: &Self) -> Option<String> {
        let compared = |config: &Self| {
            Self { context_length: config.shape.positions, ..config.clone() }.to_file_json()
        };
        let mut found = Vec::new();
        compare_keys("", &compared(self), &compared(other), &mut found);
        (!found.is_empty()).then(|| found.join(", "))
    }

    pub(crate) fn training_differences(&self, other: &Self) -> Option<String> {
        let [ours, theirs] = [self, other].map(|config| config.context_length);
        (ours != theirs).then(|| format!("context_length is {ours}, not {theirs}"))
    }

    #[expect(clippy::unused_self, reason = "every family answers")]
    pub(crate) fn images(&self) -> Option<ImageInput> {
        None
    }

    #[expect(clippy::unnecessary_wraps, reason = "every family answers")]
    pub(crate) fn texts(&self) -> Option<TextInput<'_>> {
        let (context_length, vocab_size) = (self.context_length, self.shape.vocabulary);
        Some(TextInput { context_length, vocab_size, tokenizer: &self.tokenizer })
    }

    /// Returns the stack, which may also be the text tower of a dual encoder.
    pub(crate) fn bert_stack(&self, part: Part) -> Option<(&'static str, BertShape)> {
        (part == Part::Text).then_some(("bert.", self.shape))
    }

    #[expect(clippy::unused_self, reason = "every family answers")]
    pub(crate) fn dropped_patches(&self) -> Option<(i64, i64)> {
        None
    }

    pub(crate) fn for_objective(&self, _: &ObjectiveConfig) -> Self {
        self.clone()
    }

    /// Returns the length of the longest text without its padding, which no token attends to.
    pub(crate) fn needed_tokens(&self, tokens: &[i32]) -> usize {
        let texts = tokens.chunks_exact(self.context_length as usize);
        let used = texts.map(|text| {
            text.iter()
                .rposition(|token| i64::from(*token) != self.shape.pad_id)
                .map_or(1, |at| at + 1)
        });
        used.max().unwrap_or(1)
    }

    /// Lists all parameters under the names of `BertForMaskedLM`. The head ends with the tied word
    /// embeddings.
    pub(crate) fn parameters(&self) -> Vec<ParameterSpec> {
        let (width, zero) = (self.shape.width, Init::Constant(0.0));
        let mut list = ParameterList::new(Part::Text);
        list.below("bert.", |list| self.shape.parameters(list));
        list.depth(Depth::Head);
        list.below("cls.predictions.", |list| {
            list.add("bias", &[self.shape.vocabulary], zero);
            list.linear("transform.dense", [width, width], BERT_INIT, zero);
            list.layer_norm("transform.LayerNorm", width);
        });
        list.into_specs()
    }

    /// Counts the floating-point operations of one text's forward pass.
    pub(crate) fn cost(&self, specs: &[ParameterSpec], size: SampleSize) -> Vec<(Part, f64)> {
        let BertShape { width, vocabulary, .. } = self.shape;
        let head = product(size.masked, width, width) + product(size.masked, width, vocabulary);
        vec![(Part::Text, layers(specs, Part::Text, size.tokens) + head)]
    }
}
