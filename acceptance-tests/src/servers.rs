//! What the operator's machine serves to the lab: Debian packages, files, and an echo of addresses.

use std::{
    fs::File,
    io::Write,
    net::{Shutdown, SocketAddr, TcpListener},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, anyhow};
use percent_encoding::percent_decode_str;
use tiny_http::{Method, Request, Response, Server};

use crate::{namespace::Namespace, network::CLIENT_IPV4};

/// Where packages and files are served.
pub const HTTP_PORT: u16 = 8000;
/// Where a connection is told the address that it comes from.
pub const ECHO_PORT: u16 = 7778;

/// The servers; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Servers {
    http: Arc<Http>,
    echo: TcpListener,
}

struct Http {
    server: Server,
    /// The first word of a path, and the folder that it stands for.
    folders: Vec<(&'static str, PathBuf)>,
}

impl std::fmt::Debug for Http {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Http")
            .field("folders", &self.folders)
            .finish_non_exhaustive()
    }
}

impl Servers {
    /// Starts them in the operator's namespace: `/debian/` is the mirror, `/files/` the folder.
    pub(crate) fn start(client: &Namespace, mirror: PathBuf, files: PathBuf) -> Result<Self> {
        let listener = client.listen(SocketAddr::new(CLIENT_IPV4, HTTP_PORT))?;
        let server = Server::from_listener(listener, None)
            .map_err(|error| anyhow!("serve HTTP: {error}"))?;
        let http = Arc::new(Http {
            server,
            folders: vec![("debian", mirror), ("files", files)],
        });
        for _ in 0..2 {
            let http = Arc::clone(&http);
            std::thread::spawn(move || http.serve());
        }
        let echo = client.listen(SocketAddr::from(([0_u16; 8], ECHO_PORT)))?;
        let listener = echo.try_clone()?;
        std::thread::spawn(move || tell_addresses(&listener));
        Ok(Self { http, echo })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // One wake-up for each thread; each then sees that there is no request.
        self.http.server.unblock();
        self.http.server.unblock();
        // Ends the accept() that its thread waits in; there is none when that fails.
        let _ = rustix::net::shutdown(&self.echo, rustix::net::Shutdown::Both);
    }
}

impl Http {
    fn serve(&self) {
        while let Ok(request) = self.server.recv() {
            // A client that has gone away is its own affair.
            let _ = self.answer(request);
        }
    }

    fn answer(&self, request: Request) -> std::io::Result<()> {
        if !matches!(request.method(), Method::Get | Method::Head) {
            return request.respond(Response::empty(405));
        }
        let file = self
            .find(request.url())
            .filter(|path| path.is_file())
            .map(File::open);
        match file {
            Some(Ok(file)) => request.respond(Response::from_file(file)),
            _ => request.respond(Response::empty(404)),
        }
    }

    /// Returns the file that a path stands for; none outside the folders.
    fn find(&self, url: &str) -> Option<PathBuf> {
        let path = url.split(['?', '#']).next()?.trim_start_matches('/');
        let path = percent_decode_str(path).decode_utf8().ok()?.into_owned();
        let (first, rest) = path.split_once('/')?;
        let rest = Path::new(rest);
        let inside = rest
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let (_, folder) = self.folders.iter().find(|(name, _)| *name == first)?;
        inside.then(|| folder.join(rest))
    }
}

fn tell_addresses(listener: &TcpListener) {
    while let Ok((mut stream, peer)) = listener.accept() {
        // A client that has gone away is its own affair.
        let _ = writeln!(stream, "{}", peer.ip().to_canonical());
        let _ = stream.shutdown(Shutdown::Both);
    }
}
