//! Builds the agent, or takes a ready one, and embeds it: `cargo build` alone gives a provider that works.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest as _, Sha256};

/// Architectures as `uname -m` and Rust say them alike, and the variable that names a ready agent.
const ARCHITECTURES: [(&str, &str); 2] = [
    ("x86_64", "NSPAWN_AGENT_X86_64"),
    ("aarch64", "NSPAWN_AGENT_AARCH64"),
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let ready: Vec<_> = ARCHITECTURES
        .iter()
        .filter_map(|(architecture, variable)| {
            println!("cargo::rerun-if-env-changed={variable}");
            let path = env::var_os(variable).filter(|path| !path.is_empty())?;
            let path = PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            Some((*architecture, path))
        })
        .collect();
    let agents = if ready.is_empty() {
        vec![build(&out)?]
    } else {
        ready
    };
    let mut code = String::from("/// Of this build.\npub(super) const AGENTS: &[Agent] = &[\n");
    for (architecture, path) in agents {
        code += &embed(architecture, &path, &out)?;
    }
    code += "];\n";
    fs::write(out.join("embedded.rs"), code)?;
    Ok(())
}

/// Compresses one agent into the output folder; the Rust text that names it.
fn embed(architecture: &str, path: &Path, out: &Path) -> Result<String> {
    let program =
        fs::read(path).map_err(|error| format!("reading the agent {}: {error}", path.display()))?;
    let file = out.join(format!("agent-{architecture}.gz"));
    let level = if is_release()? {
        Compression::best()
    } else {
        Compression::fast()
    };
    let mut encoder = GzEncoder::new(fs::File::create(&file)?, level);
    encoder.write_all(&program)?;
    encoder.finish()?;
    let sha256 = Sha256::digest(&program)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
    Ok(format!(
        "    Agent {{ architecture: {architecture:?}, sha256: {sha256:?}, gzip: include_bytes!({:?}) }},\n",
        file.to_string_lossy()
    ))
}

/// Builds the agent for the provider's own architecture. In a target folder of its own, because the
/// outer cargo holds the lock of this one.
fn build(out: &Path) -> Result<(&'static str, PathBuf)> {
    let (system, target) = (
        env::var("CARGO_CFG_TARGET_OS")?,
        env::var("CARGO_CFG_TARGET_ARCH")?,
    );
    let architecture = ARCHITECTURES
        .iter()
        .map(|(architecture, _)| *architecture)
        .find(|architecture| system == "linux" && *architecture == target)
        .ok_or_else(|| {
            format!("the agent can't be built for {system} on {target}: set NSPAWN_AGENT_X86_64 or NSPAWN_AGENT_AARCH64 to a ready one")
        })?;
    let workspace = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
        .join("../..")
        .canonicalize()?;
    for path in [
        "src/agent",
        "src/protocol",
        "src/texts",
        "src/fault",
        "Cargo.toml",
        "Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    let triple = format!("{architecture}-unknown-linux-gnu");
    let profile = if is_release()? { "agent" } else { "agent-test" };
    let target_folder = target_folder(out)?;
    let mut cargo = Command::new(env::var("CARGO")?);
    clean(&mut cargo);
    let status = cargo
        .current_dir(&workspace)
        .args([
            "build",
            "--locked",
            "--package",
            "nspawn-agent",
            "--bin",
            "nspawn-agent",
        ])
        .args(["--profile", profile, "--target", &triple])
        .args(env::var_os("CARGO_FEATURE_LATER_RELEASE").map(|_| "--features=later-release"))
        .args(env::var_os("CARGO_FEATURE_FAULT_POINTS").map(|_| "--features=fault-points"))
        .arg("--target-dir")
        .arg(&target_folder)
        // Static: it runs on any Debian, whatever its C library.
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()?;
    if !status.success() {
        return Err(
            format!("building the agent failed ({status}); its own messages are above").into(),
        );
    }
    Ok((
        architecture,
        target_folder
            .join(triple)
            .join(profile)
            .join("nspawn-agent"),
    ))
}

/// Beside the profiles' folders, so that a change of the provider builds no second copy of the
/// agent's dependencies.
fn target_folder(out: &Path) -> Result<PathBuf> {
    // …/target[/TRIPLE]/PROFILE/build/PACKAGE-HASH/out
    let profile = out
        .ancestors()
        .nth(3)
        .ok_or("OUT_DIR is not where cargo puts it")?;
    Ok(profile.parent().unwrap_or(profile).join("agent-build"))
}

/// Takes out what the outer cargo, clippy or a coverage tool says about the provider's own build.
fn clean(cargo: &mut Command) {
    const KEPT: [&str; 4] = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR"];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let cargos = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        let compilers =
            text.starts_with("RUSTC") || text.starts_with("RUSTDOC") || text == "RUSTFLAGS";
        let scripts = [
            "TARGET",
            "HOST",
            "PROFILE",
            "OPT_LEVEL",
            "DEBUG",
            "NUM_JOBS",
            "OUT_DIR",
        ];
        if cargos || compilers || scripts.contains(&&*text) {
            cargo.env_remove(name);
        }
    }
}

fn is_release() -> Result<bool> {
    Ok(env::var("PROFILE")? == "release")
}
