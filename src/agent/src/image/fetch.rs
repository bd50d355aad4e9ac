//! Gets an image's tarball onto the host: streamed up by the provider, or fetched from its url.
//!
//! The hash is made while the bytes come in, and compared before anything is unpacked.

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use protocol::{
    Failure, FailureKind,
    desired::{Tarball, TarballLocation},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
};

use crate::{
    command, context::Context, failure::Context as _, host::packages, system::netlink::hexadecimal,
};

/// How often progress is told.
const INTERVAL: Duration = Duration::from_secs(2);

/// Writes the tarball to a file and checks its hash.
pub async fn fetch(context: &Context, tarball: &Tarball, to: &Path) -> Result<(), Failure> {
    let mut sink = Sink::new(context, to)?;
    let from = match &tarball.location {
        TarballLocation::Path(path) => {
            receive(context, &mut sink).await?;
            path
        }
        TarballLocation::Url(url) => {
            match url.strip_prefix("file://") {
                Some(path) => read_file(context, path, &mut sink).await?,
                None => download(context, url, &mut sink).await?,
            }
            shown(url)
        }
    };
    let found = sink.finish()?;
    if found == tarball.sha256 {
        return Ok(());
    }
    Err(Failure::new(
        FailureKind::Digest,
        format!(
            "{from} has the SHA-256 sum {found}, not {}; nothing was unpacked",
            tarball.sha256
        ),
    )
    .help("Check where the file comes from. If it was meant to change, write its new sum.")
    .at("tarball.sha256"))
}

/// A file that is hashed while it is written.
struct Sink<'a> {
    context: &'a Context,
    path: &'a Path,
    file: File,
    hash: Sha256,
    bytes: u64,
    begun: Instant,
    told: Instant,
}

impl<'a> Sink<'a> {
    fn new(context: &'a Context, path: &'a Path) -> Result<Self, Failure> {
        let now = Instant::now();
        Ok(Self {
            context,
            path,
            file: File::create(path).doing(|| format!("make {}", path.display()))?,
            hash: Sha256::new(),
            bytes: 0,
            begun: now,
            told: now,
        })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.hash.update(piece);
        self.file
            .write_all(piece)
            .doing(|| format!("write {}", self.path.display()))?;
        self.bytes += piece.len() as u64;
        if self.told.elapsed() >= INTERVAL {
            self.told = Instant::now();
            self.tell();
        }
        Ok(())
    }

    fn tell(&self) {
        let (megabytes, seconds) = (self.bytes / 1_000_000, self.begun.elapsed().as_secs_f64());
        self.context
            .progress(format!("tarball: {megabytes} MB after {seconds:.1} s"));
    }

    fn finish(self) -> Result<String, Failure> {
        self.tell();
        let path = self.path;
        self.file
            .sync_data()
            .doing(|| format!("write {}", path.display()))?;
        Ok(hexadecimal(&self.hash.finalize()))
    }
}

async fn receive(context: &Context, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let upload = context.upload.as_ref().ok_or_else(|| {
        Failure::new(
            FailureKind::Protocol,
            "there is no upload with this request",
        )
    })?;
    let mut reader = upload.start()?;
    while let Some(piece) = reader.next(context).await? {
        sink.write(&piece)?;
    }
    Ok(())
}

async fn read_file(context: &Context, path: &str, sink: &mut Sink<'_>) -> Result<(), Failure> {
    let deed = || format!("open {path} on the host");
    let at = |failure: Failure| failure.at("tarball.url");
    // A FIFO's opening would wait for ever.
    let mut options = tokio::fs::OpenOptions::new();
    let open = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = open.await.doing(deed).map_err(at)?;
    if !file.metadata().await.doing(deed)?.is_file() {
        let failure = Failure::new(
            FailureKind::Invalid,
            format!("{path} is not a regular file"),
        );
        return Err(at(failure));
    }
    pour(context, file, sink).await
}

async fn download(context: &Context, url: &str, sink: &mut Sink<'_>) -> Result<(), Failure> {
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(Failure::new(
            FailureKind::Invalid,
            format!("{} is not an http, https or file url", shown(url)),
        )
        .at("tarball.url"));
    }
    let deed = || format!("fetch {}", shown(url));
    let mut child = downloader(context, url).await?;
    let stdout = child.stdout.take();
    let mut complaint = Vec::new();
    let stderr = child.stderr.take();
    let listen = async {
        if let Some(mut stderr) = stderr {
            let _ = stderr.read_to_end(&mut complaint).await;
        }
    };
    let poured = async {
        match stdout {
            Some(stdout) => pour(context, stdout, sink).await,
            None => Ok(()),
        }
    };
    let ((), poured) = tokio::join!(listen, poured);
    poured?;
    let status = context
        .within(async { child.wait().await.doing(deed) })
        .await?;
    if status.success() {
        return Ok(());
    }
    let complaint = command::tail(&complaint).replace(url, shown(url));
    Err(Failure::new(
        FailureKind::Command,
        format!("could not {}: {complaint}", deed()),
    )
    .help("Check the url, and that the host itself can reach it.")
    .at("tarball.url"))
}

/// What a person is told of a url: after it may come a signature, which is as good as a password.
fn shown(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// curl(1), or else wget(1): a static agent can't look up names, and brings no certificates along.
/// The url goes to their stdin: every user of the host sees arguments, and it may be signed.
async fn downloader(context: &Context, url: &str) -> Result<Child, Failure> {
    let curl = [
        "--fail",
        "--silent",
        "--show-error",
        "--location",
        "--proto",
        "=http,https",
        "--config",
        "-",
    ];
    let wget = ["--no-verbose", "--output-document=-", "--input-file=-"];
    let config = format!(
        "url = \"{}\"\n",
        url.replace('\\', "\\\\").replace('"', "\\\"")
    );
    if let Ok(child) = spawn("curl", &curl, &config).await {
        return Ok(child);
    }
    if let Ok(child) = spawn("wget", &wget, &format!("{url}\n")).await {
        return Ok(child);
    }
    packages::ensure(context, &["curl", "ca-certificates"]).await?;
    spawn("curl", &curl, &config).await.doing(|| "run curl")
}

async fn spawn(program: &str, arguments: &[&str], input: &str) -> std::io::Result<Child> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    Ok(child)
}

async fn pour(
    context: &Context,
    mut from: impl AsyncRead + Unpin,
    sink: &mut Sink<'_>,
) -> Result<(), Failure> {
    let mut piece = vec![0; 256 * 1024];
    loop {
        let read = async { from.read(&mut piece).await.doing(|| "read the tarball") };
        match context.within(read).await? {
            0 => return Ok(()),
            length => sink.write(&piece[..length])?,
        }
    }
}
