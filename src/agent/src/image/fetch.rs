//! Gets an image's tarball onto the host: streamed up by the provider, or fetched from its url.
//!
//! The hash is made while the bytes come in, and compared before anything is unpacked.

use std::{
    borrow::Cow,
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

/// What ca-certificates makes.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

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
    let found = sink.finish();
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

    /// It need not be on the disk: it is unpacked at once, and goes.
    fn finish(self) -> String {
        self.tell();
        hexadecimal(&self.hash.finalize())
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
    let drained = drain(context, &mut child, sink).await;
    let complaint = drained.map_err(|failure| match failure.kind {
        FailureKind::Timeout | FailureKind::Cancelled => {
            let message = format!(
                "could not {} beyond {} bytes: {failure}",
                deed(),
                sink.bytes
            );
            Failure { message, ..failure }
        }
        _ => failure,
    })?;
    let status = context
        .within(async { child.wait().await.doing(deed) })
        .await?;
    if status.success() {
        return Ok(());
    }
    let complaint = without_secrets(&String::from_utf8_lossy(&complaint));
    Err(Failure::new(
        FailureKind::Command,
        format!(
            "could not {}: {}",
            deed(),
            command::tail(complaint.as_bytes())
        ),
    )
    .help("Check the url, and that the host itself can reach it.")
    .at("tarball.url"))
}

/// Takes what a downloader brings, and gives what it complains of. The first failure ends both: a download that stalls
/// says nothing more.
async fn drain(
    context: &Context,
    child: &mut Child,
    sink: &mut Sink<'_>,
) -> Result<Vec<u8>, Failure> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut complaint = Vec::new();
    let listen = context.within(async {
        if let Some(mut stderr) = stderr {
            let _ = stderr.read_to_end(&mut complaint).await;
        }
        Ok(())
    });
    let poured = async {
        match stdout {
            Some(stdout) => pour(context, stdout, sink).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(listen, poured)?;
    Ok(complaint)
}

/// What a person is told of a url: after it may come a signature, which is as good as a password.
fn shown(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

/// A text without what may be a signature or a password in the urls of it: one that was led elsewhere, or is written
/// in another way, is not the one that was asked for.
fn without_secrets(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace);
    words.map(without_secret).collect()
}

fn without_secret(word: &str) -> Cow<'_, str> {
    let end = if word.ends_with('\n') { '\n' } else { ' ' };
    let Some((scheme, rest)) = word.split_once("://") else {
        return match word.split_once('?') {
            Some((path, query)) if !query.trim().is_empty() => format!("{path}{end}").into(),
            _ => word.into(),
        };
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let behind_user = authority.rfind('@').map_or(0, |at| at + 1);
    let rest = rest.get(behind_user..).unwrap_or_default().trim_end();
    format!("{scheme}://{}{end}", shown(rest)).into()
}

/// curl(1), or else wget(1): a static agent can't look up names, and brings no certificates along.
/// The url goes to their stdin: every user of the host sees arguments, and it may be signed.
async fn downloader(context: &Context, url: &str) -> Result<Child, Failure> {
    let curl = [
        // The first: root's .curlrc could tell too much, such as the url with its query. curl(1)
        "--disable",
        "--fail",
        "--globoff",
        "--silent",
        "--show-error",
        "--location",
        "--proto",
        "=http,https",
        "--connect-timeout",
        "30",
        // A server that sends nothing for a minute.
        "--speed-limit",
        "1",
        "--speed-time",
        "60",
        "--config",
        "-",
    ];
    let wget = [
        "--no-config",
        "--no-verbose",
        "--timeout=60",
        "--tries=3",
        "--output-document=-",
        "--input-file=-",
    ];
    let config = format!(
        "url = \"{}\"\n",
        url.replace('\\', "\\\\").replace('"', "\\\"")
    );
    if url.starts_with("https://") && !Path::new(CERTIFICATES).exists() {
        // The administrator's own may lie elsewhere: the downloader says what it lacks.
        if let Err(failure) = packages::ensure(context, &["ca-certificates"]).await {
            context.progress(format!("certificates may be missing: {failure}"));
        }
    }
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
    let mut command = Command::new(program);
    command::end_with_parent(command.as_std_mut());
    let mut child = command
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[tokio::test(flavor = "current_thread")]
    async fn a_download_that_stalls_ends_with_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tarball");
        testing::within(Duration::from_millis(10), async |context| {
            let mut sink = Sink::new(&context, &path).unwrap();
            let stalls = ["-c", "exec sleep 600"];
            let mut child = spawn("sh", &stalls, "").await.unwrap();
            let failure = drain(&context, &mut child, &mut sink).await.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Timeout);
        })
        .await;
    }

    #[test]
    fn no_url_of_a_complaint_keeps_what_may_be_a_secret() {
        for (text, shown) in [
            ("curl: (22) error: 403", "curl: (22) error: 403"),
            (
                "led to https://a:b@cdn.example/x?sig=c%2Fd#e and\nhttp://h?q=1",
                "led to https://cdn.example/x and\nhttp://h ",
            ),
            ("'HTTPS://u:p?w@h/x?y=z/a@b':\n", "'HTTPS://h/x\n"),
            ("GET /x?sig=c HTTP/1.1\nwhy? so", "GET /x HTTP/1.1\nwhy? so"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }
}
