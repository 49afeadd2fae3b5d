//! Compiles the C++ shim against the headers of the libtorch that `torch-sys` found, so that both speak of one library.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=shim/shim.cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo:rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let library = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_else(|_| {
        panic!("torch-sys did not say where libtorch is: run `make setup` (trainer/setup/setup.py), or set LIBTORCH to an unpacked libtorch 2.11.0")
    });
    let root = match std::env::var_os("LIBTORCH_INCLUDE") {
        Some(include) => PathBuf::from(include),
        None => Path::new(&library).parent().map(Path::to_path_buf).unwrap_or_default(),
    };
    let include = root.join("include");
    assert!(
        include.join("ATen/ops/_fused_adamw.h").is_file(),
        "{} has no ATen/ops/_fused_adamw.h: is {} a libtorch 2.11.0 with its headers?",
        include.display(),
        root.display()
    );
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".into());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("shim/shim.cpp")
        .include(&include)
        // The headers are not ours to clean.
        .flag_if_supported("-Wno-unused-parameter")
        .flag_if_supported("-Wno-deprecated-declarations")
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .compile("diptych_shim");
    println!("cargo:rustc-link-lib=dl");
}
