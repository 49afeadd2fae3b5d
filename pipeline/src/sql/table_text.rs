//! A result as a table for people: uids as hexadecimal digits, other bytes as their length, long
//! text cut. The last line gives the number of rows.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::error::SqlError;
use super::output::unprintable;
use super::query::Rows;

/// Rows that are counted after the last displayed one. Beyond, the table says "more than".
const COUNTED: u64 = 1_000_000;
/// Longest fixed-size bytes that are displayed as digits: a sha256.
const LONGEST_HEX: i32 = 32;

/// Limits on the displayed part of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// Most rows.
    pub rows: u64,
    /// Terminal columns of one cell.
    pub cell_width: usize,
    /// Terminal columns of the whole table; `None`: no limit. Columns of the table that do not fit
    /// are left out, with a note.
    pub screen_width: Option<usize>,
    /// Whether each row is displayed as lines of name and value.
    pub expanded: bool,
    /// Notes on how to see more, if rows or columns are left out.
    pub more_rows: &'static str,
    pub more_columns: &'static str,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self {
            rows: 40,
            cell_width: 60,
            screen_width: None,
            expanded: false,
            more_rows: "",
            more_columns: "",
        }
    }
}

/// Writes the table. Returns the number of displayed rows.
pub(super) async fn write_table(
    mut rows: Rows,
    limits: TableLimits,
    out: &mut (dyn Write + Send),
) -> Result<u64, SqlError> {
    let limits = if rows.explains() {
        TableLimits {
            rows: u64::MAX,
            cell_width: usize::MAX,
            screen_width: None,
            expanded: false,
            ..limits
        }
    } else {
        limits
    };
    let cell_width = match limits.screen_width {
        // The names take a part of the line.
        Some(width) if limits.expanded => width.saturating_sub(longest_name(&rows) + 3).max(20),
        None if limits.expanded => usize::MAX - 1,
        _ => limits.cell_width,
    };
    let fields = rows
        .schema()
        .fields()
        .iter()
        .map(|field| Field::new(field.name(), DataType::Utf8, true))
        .collect::<Vec<_>>();
    let schema = Arc::new(Schema::new(fields));
    let (mut shown, mut total, mut batches) = (0, 0_u64, Vec::new());
    while total <= limits.rows.saturating_add(COUNTED) {
        let Some(batch) = rows.next().await? else { break };
        total += batch.num_rows() as u64;
        let wanted = batch.num_rows().min((limits.rows - shown) as usize);
        if wanted > 0 {
            let columns = batch
                .columns()
                .iter()
                .map(|column| text_column(&column.slice(0, wanted), cell_width));
            let columns = columns.collect::<Result<Vec<_>, _>>().map_err(unprintable)?;
            batches.push(RecordBatch::try_new(schema.clone(), columns).map_err(unprintable)?);
            shown += wanted as u64;
        }
    }
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(schema));
    }
    let more = total > limits.rows.saturating_add(COUNTED);
    let mut count = match (shown == total, more) {
        (true, _) if total == 1 => "1 row".to_owned(),
        (true, _) => format!("{} rows", grouped(total)),
        (false, false) => format!("{} of {} rows", grouped(shown), grouped(total)),
        (false, true) => {
            format!("{} of more than {} rows", grouped(shown), grouped(limits.rows + COUNTED))
        }
    };
    if shown < total {
        count += limits.more_rows;
    }
    let columns = batches[0].num_columns();
    let fitting = match limits.screen_width {
        Some(width) if !limits.expanded => fitting_columns(&batches, width),
        _ => columns,
    };
    if fitting < columns {
        let more = limits.more_columns;
        count = format!("{count}; {fitting} of {columns} columns, as many as fit{more}");
        let first: Vec<usize> = (0..fitting).collect();
        for batch in &mut batches {
            *batch = batch.project(&first).map_err(unprintable)?;
        }
    }
    let table = if limits.expanded {
        expanded(&batches)
    } else {
        pretty_format_batches(&batches).map_err(unprintable)?.to_string()
    };
    writeln!(out, "{table}\n{count}").and_then(|()| out.flush()).map_err(SqlError::Output)?;
    Ok(shown)
}

fn longest_name(rows: &Rows) -> usize {
    rows.schema().fields().iter().map(|field| field.name().width()).max().unwrap_or(0)
}

/// Returns the number of columns, from the first, that fit into a screen with the lines between
/// them. At least one.
fn fitting_columns(batches: &[RecordBatch], screen: usize) -> usize {
    let schema = batches[0].schema();
    let mut used = 1;
    let fits = |(index, field): &(usize, &Arc<Field>)| {
        let cells = batches.iter().flat_map(|batch| batch.column(*index).as_string::<i32>().iter());
        let widest = cells.flatten().map(UnicodeWidthStr::width).max().unwrap_or(0);
        used += widest.max(field.name().width()) + 3;
        used <= screen
    };
    schema.fields().iter().enumerate().take_while(fits).count().max(1)
}

/// Formats each row as a heading and one line per column.
fn expanded(batches: &[RecordBatch]) -> String {
    let schema = batches[0].schema();
    let longest = schema.fields().iter().map(|field| field.name().width()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            lines.push(format!(
                "-[ row {} ]{}",
                lines.len() / (batch.num_columns() + 1) + 1,
                "-".repeat(longest)
            ));
            for (field, column) in schema.fields().iter().zip(batch.columns()) {
                let name = field.name();
                let space = " ".repeat(longest - name.width());
                lines.push(format!("{name}{space} | {}", column.as_string::<i32>().value(row)));
            }
        }
    }
    lines.join("\n")
}

fn text_column(column: &ArrayRef, cell_width: usize) -> Result<ArrayRef, ArrowError> {
    let lengths = |lengths: Vec<Option<usize>>| -> StringArray {
        let cell = |length: Option<usize>| {
            length.map_or_else(
                || "NULL".into(),
                |length| format!("<{} bytes>", grouped(length as u64)),
            )
        };
        lengths.into_iter().map(|length| Some(cell(length))).collect()
    };
    let cells = match column.data_type() {
        DataType::FixedSizeBinary(size) if *size > LONGEST_HEX => {
            lengths(column.as_fixed_size_binary().iter().map(|v| v.map(<[u8]>::len)).collect())
        }
        DataType::Binary => {
            lengths(column.as_binary::<i32>().iter().map(|v| v.map(<[u8]>::len)).collect())
        }
        DataType::LargeBinary => {
            lengths(column.as_binary::<i64>().iter().map(|v| v.map(<[u8]>::len)).collect())
        }
        DataType::BinaryView => {
            lengths(column.as_binary_view().iter().map(|v| v.map(<[u8]>::len)).collect())
        }
        _ => {
            let options = FormatOptions::new().with_null("NULL");
            let formatter = ArrayFormatter::try_new(column, &options)?;
            let cells = (0..column.len())
                .map(|row| Ok(Some(cut(&formatter.value(row).try_to_string()?, cell_width))));
            cells.collect::<Result<_, ArrowError>>()?
        }
    };
    Ok(Arc::new(cells))
}

/// Cuts a text to `width` terminal columns, on one line. Without a limit, lines stay.
fn cut(text: &str, width: usize) -> String {
    if width == usize::MAX {
        return text.to_owned();
    }
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if line.width() <= width {
        return line;
    }
    let mut left = width.saturating_sub(1);
    let mut kept: String = line
        .chars()
        .take_while(|c| {
            let wide = c.width().unwrap_or(0);
            let fits = wide <= left;
            left = left.saturating_sub(wide);
            fits
        })
        .collect();
    kept.push('…');
    kept
}

/// Formats 12345 as "12,345".
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_in_threes() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn text_is_cut_by_its_width_on_the_screen() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        // Each of these takes two columns.
        assert_eq!(cut("红色圆形", 6), "红色…");
        assert_eq!(cut("two\nlines", 20), "two lines");
        assert_eq!(cut("two\nlines", usize::MAX), "two\nlines");
    }
}
