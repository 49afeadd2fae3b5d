//! Options for lists (CSV, TSV, JSON) whose form cannot be seen from the file.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Character between two fields of a list, or `tab` [default: the one of tab, comma, semicolon
    /// and bar that cuts the first lines into equally many fields]
    #[arg(long, value_name = "CHARACTER", value_parser = separator)]
    pub separator: Option<char>,
    /// Names of all columns of a list without a header line, in order. A first line with these
    /// names is skipped
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub columns: Option<Vec<String>>,
    /// Read the first line of a list as a record [default: if it holds a URL or the name of an
    /// image file]
    #[arg(long)]
    pub no_header: bool,
    /// Columns of CSV and TSV that stay text; `*`: all. Other columns become whole numbers, numbers
    /// or booleans if all their values are
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub text_columns: Vec<String>,
    /// Encoding of a list: windows-1252, shift_jis, gb18030, … [default: UTF-8 or UTF-16]
    #[arg(long, value_name = "NAME")]
    pub encoding: Option<String>,
    /// Folder of the images that a list names by relative paths [default: the folder of the list]
    #[arg(long, value_name = "FOLDER")]
    pub images_root: Option<PathBuf>,
    /// Let lists and links name images anywhere on this machine. Only for lists that you trust
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
        _ => Err("expected one character, or tab".into()),
    }
}
