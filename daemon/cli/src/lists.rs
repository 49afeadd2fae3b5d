//! How lists (CSV, TSV, JSON) are read that do not say it themselves.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Character between two fields of a list, or `tab`. Without it, that of tab, comma, semicolon and bar which cuts the first lines
    /// into equally many fields
    #[arg(long, value_name = "CHARACTER", value_parser = separator)]
    pub separator: Option<char>,
    /// Names of all columns of a list without a header line, in order. A first line with these names is skipped
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// The first line of a list is a record. Without it, it is one if it holds an address or the name of an image file
    #[arg(long)]
    pub no_header: bool,
    /// Columns of CSV and TSV that stay text; `*`: all. Without it, a column of which all values are whole numbers, numbers, or true and
    /// false has that type
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub text_columns: Vec<String>,
    /// Encoding of a list that is neither UTF-8 nor UTF-16: windows-1252, shift_jis, gb18030, …
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<String>,
    /// Folder that the paths of a list are relative to, and that its images lie in. Without it, the list's own
    #[arg(long, value_name = "FOLDER")]
    pub images_root: Option<PathBuf>,
    /// Let lists and links name images anywhere on this machine. For lists that you trust
    #[arg(long)]
    pub allow_outside: bool,
}

fn separator(text: &str) -> Result<char, String> {
    if text.eq_ignore_ascii_case("tab") || text == "\\t" {
        return Ok('\t');
    }
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(character), None) => Ok(character),
        _ => Err("wants one character, or tab".into()),
    }
}
