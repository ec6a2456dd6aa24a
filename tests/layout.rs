//! The architecture as a test: which way the arrows point, what stays pure, where unsafe code may stand.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Layers from the bottom up: a module may use those before it, never those after it. Modules of one layer do not know
/// each other.
const LAYERS: &[&[&str]] = &[&["sys"], &["proto"], &["policy", "trust"], &["session"], &["borrow", "lend"], &["cli"]];

/// What the pure modules may not name: sockets, files, clocks, runtimes.
const IMPURE: &[&str] = &[
    "tokio",
    "std::net::Tcp",
    "std::net::Udp",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime",
    "rustix",
    "rustls",
    "std::os",
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The top module that a file belongs to.
fn module_of(path: &Path) -> String {
    let first = path.strip_prefix(src()).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// Lines of code: comments and what stands behind `#[cfg(test)]` do not count.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap().to_owned()).collect()
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// The modules of this crate that a file names, as `crate::x` or as `use crate::{x::…, y::…}`.
fn used_modules(path: &Path) -> Vec<String> {
    let text = code(path).join("\n");
    let mut used = Vec::new();
    for piece in text.split("crate::").skip(1) {
        match piece.strip_prefix('{') {
            None => used.push(piece.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()),
            Some(list) => {
                let mut depth = 0;
                let mut name = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => used.push(std::mem::take(&mut name)),
                        c if depth == 0 => name.push(c),
                        _ => {}
                    }
                }
                used.push(name);
            }
        }
    }
    let first = |name: String| name.trim().split("::").next().unwrap().trim().to_owned();
    used.into_iter().map(first).filter(|name| layer(name).is_some()).collect()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

#[test]
fn every_top_module_has_a_layer() {
    for path in sources(&src()) {
        let module = module_of(&path);
        assert!(layer(&module).is_some() || module == "lib" || module == "bin", "{module} is in no layer");
    }
}

#[test]
fn arrows_point_down() {
    let mut arrows = 0;
    for path in sources(&src()) {
        let module = module_of(&path);
        let Some(own) = layer(&module) else { continue };
        for used in used_modules(&path).into_iter().filter(|used| *used != module) {
            arrows += 1;
            assert!(layer(&used).unwrap() < own, "{}: {module} must not use {used}", path.display());
        }
    }
    assert!(arrows > 40, "only {arrows} uses were found: the reader of this test is broken");
}

#[test]
fn proto_and_policy_are_pure() {
    for path in sources(&src()) {
        if !["proto", "policy"].contains(&module_of(&path).as_str()) || is_test(&path) {
            continue;
        }
        for (number, line) in code(&path).iter().enumerate() {
            for word in IMPURE {
                assert!(!line.contains(word), "{}:{}: {word} in a pure module", path.display(), number + 1);
            }
        }
    }
}

/// One gate: of a program it asks by what looks for the file.
#[test]
fn the_policy_decides_for_a_borrower_in_the_gate_alone() {
    let gate = ["gate/socket.rs", "gate.rs", "spawn/choose.rs", "spawn/request.rs"];
    let asking =
        sources(&src().join("lend")).into_iter().filter(|path| code(path).join("\n").contains("policy::decide("));
    let mut asking: Vec<_> = asking.map(|path| path.strip_prefix(src().join("lend")).unwrap().to_owned()).collect();
    asking.sort();
    assert_eq!(asking, gate.map(PathBuf::from));
}

#[test]
fn unsafe_code_stands_in_sys_alone() {
    for path in sources(&src()) {
        let module = module_of(&path);
        let has_unsafe = code(&path)
            .iter()
            .any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe"));
        assert!(!has_unsafe || module == "sys", "{} has unsafe code", path.display());
    }
    let lib = fs::read_to_string(src().join("lib.rs")).unwrap();
    assert!(lib.contains("#![deny(unsafe_code)]"));
    for module in LAYERS.iter().flat_map(|modules| modules.iter()).filter(|module| src().join(module).is_dir()) {
        let text = fs::read_to_string(src().join(module).join("mod.rs")).unwrap();
        let expected = if *module == "sys" { "#![allow(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
        assert!(text.contains(expected), "{module}/mod.rs must say {expected}");
    }
}

#[test]
fn a_file_holds_one_idea_and_so_few_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in
        ["src", "tests", "benches", "examples", "fuzz/fuzz_targets"].iter().flat_map(|top| sources(&root.join(top)))
    {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 400, "{}: {lines} lines", path.display());
    }
}

#[test]
fn names_that_fit_everything_are_not_used() {
    for path in sources(&src()) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            !["utils", "util", "helper", "helpers", "common", "types", "misc"].contains(&name),
            "{}",
            path.display()
        );
    }
}
