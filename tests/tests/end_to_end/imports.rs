//! Dependencies within a crate: no circle of imports joins two folders. Cargo refuses circles
//! between crates.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use diptych_tests::project;

/// A module by its path within the crate. The empty path is the crate itself.
type Module = Vec<String>;

/// The modules of one crate and the imports of each.
struct Crate {
    name: String,
    /// Each with the folder of its file.
    modules: BTreeMap<Module, PathBuf>,
    imports: BTreeMap<Module, BTreeSet<Module>>,
}

impl Crate {
    fn read(source: &Path) -> Self {
        let mut texts = BTreeMap::new();
        let mut modules = BTreeMap::new();
        let mut folders = vec![source.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let relative = path.strip_prefix(source).unwrap();
                if path.extension().is_none_or(|extension| extension != "rs")
                    || path.file_stem().unwrap() == "tests"
                {
                    continue;
                }
                let mut module: Module = relative
                    .with_extension("")
                    .iter()
                    .map(|part| part.to_str().unwrap().to_owned())
                    .collect();
                if ["mod", "lib", "main"].contains(&module.last().unwrap().as_str()) {
                    module.pop();
                }
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
                texts.insert(module.clone(), text);
                modules.insert(module, relative.parent().unwrap().to_owned());
            }
        }
        let uses: BTreeMap<Module, Vec<Use>> =
            texts.into_iter().map(|(module, text)| (module, uses_of(&text))).collect();
        let mut names: BTreeMap<(Module, String), Module> = BTreeMap::new();
        for (module, uses) in &uses {
            for Use { path, .. } in uses.iter().filter(|used| used.is_public) {
                if let Some(path) = absolute(module, path, &modules) {
                    names.insert((module.clone(), path.last().unwrap().clone()), path);
                }
            }
        }
        let mut imports: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (module, uses) in &uses {
            for Use { path, is_public } in uses {
                let Some(path) = absolute(module, path, &modules) else { continue };
                let Some(from) = resolve(&path, &modules, &names, 0) else { continue };
                // A module that hands its children's names on does not depend on them for itself.
                let hands_on = *is_public && from.starts_with(module);
                if from != *module && !hands_on {
                    imports.entry(module.clone()).or_default().insert(from);
                }
            }
        }
        let name = source.strip_prefix(project()).unwrap().display().to_string();
        Self { name, modules, imports }
    }

    /// Returns all modules that a module needs, directly or through others.
    fn needs(&self, module: &Module) -> BTreeSet<Module> {
        let mut found = BTreeSet::new();
        let mut todo = vec![module.clone()];
        while let Some(next) = todo.pop() {
            for import in self.imports.get(&next).into_iter().flatten() {
                if found.insert(import.clone()) {
                    todo.push(import.clone());
                }
            }
        }
        found
    }

    /// Returns pairs of modules in two folders that need each other.
    fn circles_between_folders(&self) -> Vec<String> {
        let needs: BTreeMap<&Module, BTreeSet<Module>> =
            self.modules.keys().map(|module| (module, self.needs(module))).collect();
        let mut found = Vec::new();
        for (module, needed) in &needs {
            for other in needed {
                let both = *module < other && needs[other].contains(*module);
                if both && self.modules[*module] != self.modules[other] {
                    found.push(format!(
                        "{}: {} and {} need each other",
                        self.name,
                        module.join("::"),
                        other.join("::")
                    ));
                }
            }
        }
        found
    }
}

struct Use {
    path: Vec<String>,
    is_public: bool,
}

/// Returns the paths in a file's `use` statements.
fn uses_of(text: &str) -> Vec<Use> {
    let mut found = Vec::new();
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
    for statement in code.split(';') {
        let Some(at) = statement
            .rfind("use ")
            .filter(|at| *at == 0 || statement[..*at].ends_with(['\n', ' ']))
        else {
            continue;
        };
        let before = statement[..at].lines().last().unwrap_or_default();
        if !before.trim().is_empty() && !before.trim_start().starts_with("pub") {
            continue;
        }
        let is_public = before.trim_start().starts_with("pub");
        for path in paths_of(statement[at + 4..].trim()) {
            found.push(Use { path, is_public });
        }
    }
    // Paths that stand in the code itself.
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let own_word = !code[..at].ends_with(|before: char| {
                before.is_alphanumeric() || before == ':' || before == '_'
            });
            let visibility = code[..at].ends_with("(in ") || code[..at].ends_with("use ");
            if own_word && !visibility {
                let path: String = code[at..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
                    .collect();
                let path =
                    path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
                found.push(Use { path, is_public: false });
            }
        }
    }
    found
}

/// `a::{b, c::d}` → a::b, a::c::d.
fn paths_of(tree: &str) -> Vec<Vec<String>> {
    let Some((prefix, inner)) = tree.split_once('{') else {
        let name = tree.split(" as ").next().unwrap();
        return vec![
            name.split("::")
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect(),
        ];
    };
    let prefix: Vec<String> = prefix
        .split("::")
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect();
    let inner = &inner[..inner.rfind('}').unwrap_or(inner.len())];
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let whole = |part: &&str| !part.trim().is_empty();
    let paths = parts.into_iter().filter(whole).flat_map(|part| paths_of(part.trim()));
    paths.map(|path| prefix.iter().cloned().chain(path).collect()).collect()
}

/// Returns the path from the crate's root, or `None` for a path into another crate.
fn absolute(
    module: &Module,
    path: &[String],
    modules: &BTreeMap<Module, PathBuf>,
) -> Option<Vec<String>> {
    let first = path.first()?;
    let mut base = module.clone();
    match first.as_str() {
        "crate" => return Some(path[1..].to_vec()),
        "self" => base.extend(path[1..].iter().cloned()),
        "super" => {
            let up = path.iter().take_while(|part| *part == "super").count();
            base.truncate(base.len().saturating_sub(up));
            base.extend(path[up..].iter().cloned());
        }
        _ => {
            base.push(first.clone());
            if !modules.contains_key(&base) {
                return None;
            }
            base.extend(path[1..].iter().cloned());
        }
    }
    Some(base)
}

/// Returns the module that a path leads to, through names that other modules re-export.
fn resolve(
    path: &[String],
    modules: &BTreeMap<Module, PathBuf>,
    names: &BTreeMap<(Module, String), Module>,
    depth: usize,
) -> Option<Module> {
    for length in (0..=path.len()).rev() {
        let module = path[..length].to_vec();
        if !modules.contains_key(&module) {
            continue;
        }
        let handed_on =
            path.get(length).and_then(|name| names.get(&(module.clone(), name.clone())));
        return match handed_on {
            Some(other) if depth < 8 && other != path => resolve(other, modules, names, depth + 1),
            _ => Some(module),
        };
    }
    None
}

#[test]
fn no_circle_of_imports_joins_two_folders() {
    let crates = ["schemas", "pipeline", "pipeline/sample", "pipeline/table", "trainer", "daemon"]
        .map(str::to_owned)
        .into_iter();
    let daemon = ["cli", "demo", "store", "embeddings", "evaluate", "training", "pages", "serve"]
        .map(|name| format!("daemon/{name}"));
    let mut found = Vec::new();
    let mut modules = 0;
    for name in crates.chain(daemon) {
        let read = Crate::read(&project().join(name).join("src"));
        modules += read.modules.len();
        found.extend(read.circles_between_folders());
    }
    assert!(modules > 300, "only {modules} modules were found");
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn imports_are_read_as_the_compiler_reads_them() {
    let text = "use std::fs;\npub use self::a::{B, c::{D, E as F}};\nuse super::x::Y;\n// use crate::no;\nfn f() { crate::z::g() }\n";
    let found: Vec<String> = uses_of(text)
        .iter()
        .map(|used| format!("{}{}", if used.is_public { "pub " } else { "" }, used.path.join("::")))
        .collect();
    assert_eq!(
        found,
        [
            "std::fs",
            "pub self::a::B",
            "pub self::a::c::D",
            "pub self::a::c::E",
            "super::x::Y",
            "crate::z::g"
        ]
    );
}
