//! The columns of the image and the caption: their usual names, and the message when there is none.

use std::path::Path;

use super::IngestError;

/// Usual names of columns with image bytes.
pub(super) const IMAGE_COLUMNS: &[&str] =
    &["image", "jpg", "jpeg", "png", "webp", "img", "image_bytes", "bytes"];
/// Usual names of columns with the path of an image file.
pub(super) const FILE_COLUMNS: &[&str] = &[
    "file_name",
    "filepath",
    "file_path",
    "image_path",
    "path",
    "filename",
    "image",
    "img",
    "file",
    "image_file",
    "image_filename",
    "image_name",
    "img_path",
];
/// Usual names of columns with the URL of an image, in the lists of LAION, DataComp, COYO and other
/// users of img2dataset.
pub(super) const URL_COLUMNS: &[&str] = &["url", "image_url", "img_url"];
/// Usual names of columns with captions.
pub(super) const CAPTION_COLUMNS: &[&str] = &[
    "caption",
    "text",
    "title",
    "captions",
    "texts",
    "en_caption",
    "caption_en",
    "description",
    "alt_text",
    "alt",
    "prompt",
    "comment",
    "sentence",
];

/// The kind of column to find.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    Image,
    File,
    Url,
    Caption,
}

impl Wanted {
    fn defaults(self) -> &'static [&'static str] {
        match self {
            Self::Image => IMAGE_COLUMNS,
            Self::File => FILE_COLUMNS,
            Self::Url => URL_COLUMNS,
            Self::Caption => CAPTION_COLUMNS,
        }
    }

    fn option(self) -> &'static str {
        match self {
            Self::Image | Self::File => "--image-column",
            Self::Url => "--url-column",
            Self::Caption => "--caption-column",
        }
    }

    fn what(self) -> &'static str {
        match self {
            Self::Image => "column of images (bytes, paths or base64)",
            Self::File => "column of image paths",
            Self::Url => "column of URLs",
            Self::Caption => "caption column",
        }
    }

    /// Returns the index of the column: the given name, or the first of the usual ones. The case of
    /// the name does not matter.
    pub(super) fn find<'a>(
        self,
        names: &(impl Iterator<Item = &'a str> + Clone),
        given: Option<&str>,
    ) -> Option<usize> {
        if let Some(given) = given {
            let exact = names.clone().position(|name| name == given);
            return exact
                .or_else(|| names.clone().position(|name| name.eq_ignore_ascii_case(given)));
        }
        self.defaults()
            .iter()
            .find_map(|usual| names.clone().position(|name| name.eq_ignore_ascii_case(usual)))
    }

    /// Lists other possible columns and the option that selects one of them. Empty if a column was
    /// given.
    pub(super) fn rivals<'a>(
        self,
        names: impl Iterator<Item = &'a str>,
        taken: &str,
        given: Option<&str>,
    ) -> String {
        let is_usual =
            |name: &str| self.defaults().iter().any(|usual| usual.eq_ignore_ascii_case(name));
        let others: Vec<String> = names
            .filter(|name| *name != taken && is_usual(name))
            .map(|name| format!("`{name}`"))
            .collect();
        if given.is_some() || others.is_empty() {
            return String::new();
        }
        format!(" (not in {}: {} takes another)", others.join(", "), self.option())
    }

    /// Returns the error for when [`Self::find`] finds nothing.
    pub(super) fn missing<'a>(
        self,
        path: &Path,
        names: impl Iterator<Item = &'a str>,
        given: Option<&str>,
    ) -> IngestError {
        const SHOWN: usize = 40;
        let mut names: Vec<&str> = names.collect();
        let hidden = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        let more = if hidden > 0 { format!(" and {hidden} more") } else { String::new() };
        let columns = if names.is_empty() {
            "it is empty, or its first records have no fields".into()
        } else {
            format!("its columns are {}{more}", names.join(", "))
        };
        let sought = match given {
            Some(given) => format!("it has no {} {given:?}", self.what()),
            None => {
                format!("it has no {} (looked for {})", self.what(), self.defaults().join(", "))
            }
        };
        IngestError::NoColumn { path: path.to_owned(), sought, columns, option: self.option() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_name_wins_and_the_usual_names_are_tried_in_order_and_in_any_case() {
        let names = ["id", "TEXT", "Caption", "image"];
        assert_eq!(Wanted::Caption.find(&names.into_iter(), None), Some(2));
        assert_eq!(Wanted::Caption.find(&names.into_iter(), Some("text")), Some(1));
        assert_eq!(Wanted::Caption.find(&names.into_iter(), Some("title")), None);
        assert_eq!(Wanted::File.find(&names.into_iter(), None), Some(3));
    }

    #[test]
    fn columns_that_were_not_taken_are_named() {
        let names = ["file", "title", "Caption", "prompt"];
        let rivals = |given| Wanted::Caption.rivals(names.into_iter(), "Caption", given);
        assert_eq!(rivals(None), " (not in `title`, `prompt`: --caption-column takes another)");
        assert_eq!(rivals(Some("Caption")), "");
        assert_eq!(Wanted::File.rivals(names.into_iter(), "file", None), "");
    }

    #[test]
    fn message_names_file_columns_and_option() {
        let message = Wanted::Caption
            .missing(Path::new("a.csv"), ["file", "words"].into_iter(), Some("txt"))
            .to_string();
        for part in ["a.csv", "file, words", "--caption-column", "txt"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
