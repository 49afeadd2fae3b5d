//! Builds `libdiptych_torch.so`, which holds all code that calls libtorch, and the binary's
//! trampolines to it.
//!
//! No binary is linked against libtorch, so a command that needs no tensor starts without it.
//! `src/device/shim/library.rs` opens the library. `trampolines.rs` explains what a call does.

mod trampolines;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The name of the shared library. `daemon/dist/place.py` looks for the same name.
const LIBRARY: &str = "libdiptych_torch.so";

fn main() {
    for file in ["build", "shim/shim.cpp"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=NM");
    let out = PathBuf::from(set_by_cargo("OUT_DIR"));
    let libtorch = PathBuf::from(torch_api("LIBTORCH"));

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .debug(false)
        .file("shim/shim.cpp")
        .include(libtorch.join("include"))
        // Warnings in libtorch's headers are not ours to fix.
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-Wno-deprecated-declarations")
        .define("_GLIBCXX_USE_CXX11_ABI", torch_api("ABI").as_str())
        .cargo_metadata(false)
        .compile("diptych_shim");

    let archives = [PathBuf::from(torch_api("ARCHIVE")), out.join("libdiptych_shim.a")];
    let symbols = symbols(&archives);
    let interface = interface(&symbols.defined);
    let library = out.join(LIBRARY);
    link(&library, &archives, &table(&out, &symbols, &interface), &libtorch.join("lib"));

    let assembly = out.join("trampolines.s");
    let architecture = set_by_cargo("CARGO_CFG_TARGET_ARCH");
    write(&assembly, &trampolines::assembly(&architecture, &symbols.defined, &interface, &library));
    cc::Build::new().file(&assembly).compile("diptych_trampolines");
}

/// Returns the value of `key` from the build script of `diptych-torch-api`.
fn torch_api(key: &str) -> String {
    set_by_cargo(&format!("DEP_DIPTYCH_TORCH_API_{key}"))
}

fn set_by_cargo(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}, which cargo sets: {error}"))
}

/// The C functions of the archives, by name.
struct Symbols {
    defined: BTreeSet<String>,
    /// Functions that the archives call and do not define.
    missing: BTreeSet<String>,
}

fn symbols(archives: &[PathBuf]) -> Symbols {
    let nm = env::var_os("NM").unwrap_or_else(|| "nm".into());
    let output = Command::new(nm)
        .args(["--extern-only", "--portability"])
        .args(archives)
        .output()
        .unwrap_or_else(|error| {
            panic!("nm (of binutils) lists the functions of an archive: {error}")
        });
    assert!(output.status.success(), "nm: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8_lossy(&output.stdout);
    let of_kind = |kind: &str| -> BTreeSet<String> {
        let lines = listed.lines().filter_map(|line| line.split_once(' '));
        // Mangled names of C++ begin with an underscore.
        let names = lines.filter(|(name, rest)| {
            rest.trim_end().split(' ').next() == Some(kind) && !name.starts_with('_')
        });
        names.map(|(name, _)| name.to_owned()).collect()
    };
    let (defined, called) = (of_kind("T"), of_kind("U"));
    assert!(defined.len() > 1000, "nm found only {} functions in {archives:?}", defined.len());
    Symbols { missing: called.difference(&defined).cloned().collect(), defined }
}

/// Returns a text that differs where the functions, or their arguments, may differ.
///
/// The binary compares it with the text in the library.
fn interface(functions: &BTreeSet<String>) -> String {
    let shim = fs::read_to_string("shim/shim.cpp")
        .unwrap_or_else(|error| panic!("shim/shim.cpp: {error}"));
    // FNV-1a, because the standard library's hashes may change with the compiler.
    let hash = functions
        .iter()
        .flat_map(|name| name.bytes().chain([0]))
        .chain(shim.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{}, {} functions, {hash:016x}", torch_api("VERSION"), functions.len())
}

/// Compiles the library's table of functions, in the order of the trampolines.
///
/// Returns the archive that holds it. The C++ of torch-sys also calls back where tch reads and
/// writes Rust's streams. A library cannot call functions that a binary does not export. Diptych
/// never uses those streams (`clippy.toml` refuses the methods), so such a call ends the process.
fn table(out: &Path, symbols: &Symbols, interface: &str) -> PathBuf {
    let declarations: Vec<String> =
        symbols.defined.iter().map(|name| format!("extern void {name}(void);\n")).collect();
    let entries: Vec<String> =
        symbols.defined.iter().map(|name| format!("    {name},\n")).collect();
    let streams = symbols.missing.iter().filter(|name| name.starts_with("tch_"));
    let streams: Vec<String> =
        streams.map(|name| format!("void {name}(void) {{ abort(); }}\n")).collect();
    let source = out.join("table.c");
    let (declarations, entries, streams) =
        (declarations.concat(), entries.concat(), streams.concat());
    write(
        &source,
        &format!(
            "#include <stdlib.h>\n{declarations}{streams}\nconst char diptych_torch_interface[] = \
             \"{interface}\";\nvoid (*const diptych_torch_functions[])(void) = {{\n{entries}}};\n"
        ),
    );
    cc::Build::new()
        .file(&source)
        .pic(true)
        .debug(false)
        .cargo_metadata(false)
        .compile("diptych_torch_table");
    out.join("libdiptych_torch_table.a")
}

/// Links the archives and the table against the libtorch in the folder `libraries`.
///
/// The library will look for libtorch in that folder.
fn link(library: &Path, archives: &[PathBuf], table: &Path, libraries: &Path) {
    let mut linker = cc::Build::new().cpp(true).debug(false).get_compiler().to_command();
    linker.arg("-shared").arg("-o").arg(library);
    linker.arg("-Wl,--whole-archive").args(archives).arg(table).arg("-Wl,--no-whole-archive");
    // `libtorch.so` is left out: it defines nothing and may load CUDA.
    linker.arg("-L").arg(libraries).args([
        "-Wl,--as-needed",
        "-ltorch_cpu",
        "-lc10",
        "-Wl,--no-undefined",
        "-Wl,-z,now",
    ]);
    // A path may contain a comma, at which `-Wl` would split it.
    linker.args(["-Xlinker", "-rpath", "-Xlinker"]).arg(libraries);
    let output = linker.output().unwrap_or_else(|error| panic!("{linker:?}: {error}"));
    assert!(output.status.success(), "{linker:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[expect(clippy::disallowed_methods, reason = "a build that is killed is repeated")]
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
