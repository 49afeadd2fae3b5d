//! `diptych decontaminate`: makes a selection without the pairs of evaluation sets.

use diptych_cli::DecontaminateArgs;
use diptych_embeddings::pairs::chosen_part;
use diptych_embeddings::session::with_limited_session;
use diptych_pipeline::remember_selection;
use diptych_pipeline::sql::content_functions;
use diptych_pipeline::sql::{SessionSpec, session};
use diptych_pipeline::{DecontaminationReport, DedupSpec, Evaluation, decontaminate};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;

use super::dedup::{Memory, cut, tiers, unseen};
use crate::output::line;

pub(crate) fn run(args: &DecontaminateArgs) -> anyhow::Result<Outcome> {
    let memory = Memory::of(args.memory.memory_limit);
    let spec = DedupSpec { tiers: tiers(&args.tiers), keep: "uid".into(), memory: memory.keys };
    let input = chosen_part(&args.dataset.dataset, &args.pairs.choice())?;
    let functions = content_functions();
    let report = with_limited_session(
        Some(&args.dataset.dataset),
        None,
        Some(memory.queries),
        async |context| {
            let mut against = Vec::new();
            for folder in &args.against {
                let spec = SessionSpec {
                    memory: Some(memory.queries),
                    ..SessionSpec::new(Some(folder), &functions)
                };
                against.push(Evaluation {
                    name: folder.display().to_string(),
                    context: session(spec)?,
                });
            }
            Ok(decontaminate(
                &context,
                input.as_ref(),
                &against,
                &spec,
                &args.output,
                args.groups.as_deref(),
            )
            .await?)
        },
    )?;
    remember_selection(&args.dataset.dataset, &args.output);
    print_report(args, &report)?;
    Ok(Outcome::Done)
}

fn print_report(args: &DecontaminateArgs, report: &DecontaminationReport) -> anyhow::Result<()> {
    for evaluation in &report.evaluations {
        let by_tier = evaluation
            .by_tier
            .iter()
            .map(|(tier, pairs)| format!("{} by {tier}", thousands(*pairs)));
        line(format!(
            "{}: {} pairs dropped for its {} ({})",
            evaluation.name,
            thousands(evaluation.dropped),
            thousands(evaluation.pairs),
            by_tier.collect::<Vec<_>>().join(", ")
        ))?;
        for example in &evaluation.examples {
            line(format!(
                "  {} {}  ~  {} {}  ({} {:.3})",
                example.uid,
                cut(&example.caption),
                example.evaluation_uid,
                cut(&example.evaluation_caption),
                example.tier,
                example.distance
            ))?;
        }
    }
    for (tier, pairs) in report.unseen.iter().filter(|(_, pairs)| *pairs > 0) {
        line(format!("{tier}:{}", unseen(tier, *pairs)))?;
    }
    line(format!(
        "{}: {} of {} pairs, selection {:.12}",
        args.output.display(),
        thousands(report.kept),
        thousands(report.of),
        report.selection_hash.to_string()
    ))?;
    Ok(())
}
