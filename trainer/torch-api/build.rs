//! Compiles the C++ of `torch-sys` into an archive, which no binary is linked against.
//!
//! The build script of `torch-sys` would link every binary against libtorch, which then takes 0.2 s
//! to load at each start. `.cargo/config.toml` keeps cargo from running it. The trainer's build
//! script makes a shared library of this archive. The trainer opens that library when it first
//! needs a tensor.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["LIBTORCH", "LIBTORCH_CXX11_ABI"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    assert!(
        env::var_os("DEP_TCH_LIBTORCH_LIB").is_none(),
        "torch-sys was built with its own build script; run cargo inside the checkout, so that it \
         reads .cargo/config.toml"
    );
    let libtorch = libtorch();
    let sources = torch_sys();
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    // These functions only pass their arguments on, so more optimisation gains nothing.
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .opt_level(1)
        .debug(false)
        .warnings(false)
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .define("GLOG_USE_GLOG_EXPORT", None)
        .file(sources.join("libtch/torch_api.cpp"))
        .file(sources.join("libtch/torch_api_generated.cpp"))
        .cargo_metadata(false)
        .compile("tch");
    let archive = Path::new(&set_by_cargo("OUT_DIR")).join("libtch.a");
    let version = sources.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // The trainer's build script reads these as DEP_DIPTYCH_TORCH_API_….
    println!("cargo::metadata=archive={}", archive.display());
    println!("cargo::metadata=libtorch={}", libtorch.display());
    println!("cargo::metadata=abi={abi}");
    println!("cargo::metadata=version={version}");
}

/// Returns the folder of libtorch, with its headers in `include` and its libraries in `lib`.
fn libtorch() -> PathBuf {
    let advice =
        "run `make setup` (trainer/setup/setup.py), or set LIBTORCH to an unpacked libtorch 2.11.0";
    let folder = PathBuf::from(
        env::var_os("LIBTORCH").unwrap_or_else(|| panic!("LIBTORCH is not set; {advice}")),
    );
    for file in ["include/ATen/ops/_fused_adamw.h", "lib/libtorch_cpu.so", "lib/libc10.so"] {
        let path = folder.join(file);
        assert!(path.is_file(), "{} does not exist; {advice}", path.display());
    }
    folder
}

/// Returns the source folder of the `torch-sys` that this workspace depends on.
fn torch_sys() -> PathBuf {
    let output = Command::new(set_by_cargo("CARGO"))
        .args(["metadata", "--format-version=1", "--filter-platform", &set_by_cargo("TARGET")])
        .output()
        .unwrap_or_else(|error| panic!("cargo metadata: {error}"));
    let (metadata, messages) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "cargo metadata: {messages}");
    // A JSON parser would have to be compiled for this one value.
    let manifests =
        metadata.split(r#""manifest_path":""#).skip(1).filter_map(|rest| rest.split('"').next());
    let found: Vec<PathBuf> = manifests
        .filter_map(|manifest| Path::new(manifest).parent())
        .filter(|folder| folder.join("libtch/torch_api_generated.cpp").is_file())
        .filter_map(|folder| fs::canonicalize(folder).ok())
        .collect();
    match found.as_slice() {
        [folder] => folder.clone(),
        _ => panic!(
            "cargo metadata names {} packages that hold torch-sys' C++, expected one",
            found.len()
        ),
    }
}

fn set_by_cargo(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("{name}, which cargo sets: {error}"))
}
