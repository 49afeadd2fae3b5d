//! Tables of counts whose rows have bars.

use diptych_schemas::words::thousands;
use maud::{Markup, html};

use super::plot_area::round;
use crate::numbers::percent;

/// Draws names with their counts and their shares of the total.
pub(crate) fn bars(title: &str, note: &str, rows: &[(String, u64)], total: u64) -> Markup {
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as f64;
    html! {
        figure.chart {
            figcaption { b { (title) } " " span.pale { (note) } }
            @if rows.is_empty() { p.pale { "none" } }
            table.bars {
                @for (name, count) in rows {
                    tr {
                        td.name title=(name) { (name) }
                        @let width = round(*count as f64 / most * 100.0);
                        td.track { div.fill style={ "width:" (width) "%" } {} }
                        td.number { (thousands(*count)) }
                        td.number.pale { (percent(*count, total)) }
                    }
                }
            }
        }
    }
}

/// Draws how much of the first row's count each condition leaves.
pub(crate) fn funnel(steps: &[(String, u64)]) -> Markup {
    let all = steps.first().map_or(1, |(_, count)| *count).max(1);
    html! {
        table.funnel {
            thead {
                tr {
                    th { "condition" }
                    th.number { "left" }
                    th.number { "dropped" }
                    th.number { "of all" }
                    th {}
                }
            }
            @for (index, (condition, left)) in steps.iter().enumerate() {
                @let before = if index == 0 { *left } else { steps[index - 1].1 };
                tr {
                    td { code { (condition) } }
                    td.number { (thousands(*left)) }
                    td.number.drop {
                        @if index > 0 { "−" (thousands(before.saturating_sub(*left))) }
                    }
                    td.number.pale { (percent(*left, all)) }
                    @let width = round(before as f64 / all as f64 * 100.0);
                    @let kept = round(*left as f64 / before.max(1) as f64 * 100.0);
                    td.track {
                        div.lost style={ "width:" (width) "%" } {
                            div.fill style={ "width:" (kept) "%" } {}
                        }
                    }
                }
            }
        }
    }
}
