//! The summary at the top of a run's page: model, machine, batch, learning rate.

use diptych_schemas::words::thousands;
use diptych_schemas::{OptimizerConfig, TrainConfig};
use maud::{Markup, html};

use super::Report;
use super::history::text;

pub(super) fn summary(report: &Report) -> Markup {
    let record = &report.history.record;
    let Ok(config) = TrainConfig::parse(&report.history.config()) else { return html! {} };
    let known = |name: &str| Some(text(record, name)).filter(|text| !text.is_empty());
    let parameters = record["parameters"].as_u64().filter(|count| *count > 0);
    let model = known("model").unwrap_or_else(|| config.model.name());
    let mut facts = vec![("model", model)];
    facts.extend(parameters.map(|count| ("parameters", thousands(count))));
    // Earlier versions did not record the device of a run.
    facts.push(("device", known("device").unwrap_or_else(|| config.train.device.clone())));
    facts.extend(known("host").map(|host| ("host", host)));
    facts.push(("batch", thousands(config.train.batch_size)));
    facts.push(("epochs", thousands(config.train.epochs)));
    facts.push(("learning rate", learning_rate(&config.optimizer)));
    html! {
        p.facts { @for (place, (name, value)) in facts.iter().enumerate() {
            @if place > 0 { " · " } span.pale { (name) " " } b { (value) }
        } }
    }
}

/// Formats the learning rate with its schedule, such as `5e-4, cosine, 8 steps of warm-up`.
fn learning_rate(optimizer: &OptimizerConfig) -> String {
    let shape = serde_json::to_value(optimizer.schedule).unwrap_or_default();
    let warmup = match (optimizer.warmup_samples, optimizer.warmup_steps) {
        (Some(samples), _) => format!(", {} samples of warm-up", thousands(samples)),
        (None, diptych_schemas::WarmupSteps::Steps(steps)) => {
            format!(", {} steps of warm-up", thousands(steps))
        }
        (None, diptych_schemas::WarmupSteps::Auto) => String::new(),
    };
    format!("{:e}, {}{warmup}", optimizer.lr, shape.as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_schemas::WarmupSteps;

    #[test]
    fn learning_rate_says_its_shape_and_warm_up() {
        let warmup_steps = WarmupSteps::Steps(1200);
        let optimizer = OptimizerConfig { warmup_steps, ..OptimizerConfig::default() };
        assert_eq!(learning_rate(&optimizer), "5e-4, cosine, 1,200 steps of warm-up");
        let optimizer = OptimizerConfig { warmup_samples: Some(9), ..optimizer };
        assert_eq!(learning_rate(&optimizer), "5e-4, cosine, 9 samples of warm-up");
    }
}
