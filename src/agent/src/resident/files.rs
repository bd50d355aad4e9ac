//! Tells when a file of ours is changed or removed. inotify(7)

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{CStr, OsStr, OsString},
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use protocol::Failure;
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use tokio::{io::unix::AsyncFd, sync::Notify, task::spawn_local};

use crate::{context::Context, failure::Context as _, system::files};

/// The desired files, by the folder below /etc/nspawn-agent.
const DESIRED: [&str; 4] = ["", "images", "containers", "addresses"];

/// Watches files by their folders, so that one that is made anew is noticed, too.
#[derive(Debug)]
pub struct Files {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    descriptor: AsyncFd<OwnedFd>,
    changed: Rc<Notify>,
    /// Whether a desired file was changed since that was asked last.
    desired: Cell<bool>,
    watched: RefCell<HashMap<i32, Watched>>,
}

/// What of a folder matters.
#[derive(Debug)]
enum Watched {
    /// All but the temporary files that replace others.
    Desired { kind: &'static str },
    /// Files of these names: the folder is shared with others.
    Named(BTreeSet<OsString>),
}

impl Files {
    /// Begins to listen.
    pub fn start(changed: Rc<Notify>) -> Result<Self, Failure> {
        let deed = || "watch files";
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let descriptor = inotify::init(flags).doing(deed)?;
        let shared = Rc::new(Shared {
            descriptor: readable(descriptor).doing(deed)?,
            changed,
            desired: Cell::new(false),
            watched: RefCell::default(),
        });
        let listening = Rc::clone(&shared);
        spawn_local(async move { listening.listen().await });
        Ok(Self { shared })
    }

    /// Watches the desired files and these of ours. A folder that was made anew is another one to
    /// the kernel, so this is repeated after each look.
    pub fn follow(&self, context: &Context, ours: &[PathBuf]) -> Result<(), Failure> {
        let mut watched = self.shared.watched.borrow_mut();
        for kind in DESIRED {
            let folder = context.store.folder().join(kind);
            files::create_folder(&folder, 0o700)?;
            if let Some(watch) = self.shared.watch(&folder)? {
                watched.insert(watch, Watched::Desired { kind });
            }
        }
        let mut folders: BTreeMap<&Path, BTreeSet<OsString>> = BTreeMap::new();
        for path in ours {
            if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
                folders.entry(folder).or_default().insert(name.to_owned());
            }
        }
        for (folder, names) in folders {
            if let Some(watch) = self.shared.watch(folder)? {
                watched.insert(watch, Watched::Named(names));
            }
        }
        Ok(())
    }

    /// Whether a desired file was changed since this was asked last.
    pub fn desired_has_changed(&self) -> bool {
        self.shared.desired.take()
    }
}

impl Shared {
    /// Watches a folder, also one that is watched already; none where there is no folder.
    fn watch(&self, folder: &Path) -> Result<Option<i32>, Failure> {
        let events = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(self.descriptor.get_ref(), folder, events) {
            Ok(watch) => Ok(Some(watch)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error).doing(|| format!("watch {}", folder.display())),
        }
    }

    async fn listen(&self) {
        while let Ok(mut guard) = self.descriptor.readable().await {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(guard.get_inner(), &mut buffer);
            while let Ok(event) = reader.next() {
                self.take_in(event.wd(), event.events(), event.file_name());
            }
            guard.clear_ready();
        }
    }

    fn take_in(&self, watch: i32, events: ReadFlags, name: Option<&CStr>) {
        if events.contains(ReadFlags::IGNORED) {
            self.watched.borrow_mut().remove(&watch);
            return;
        }
        let watched = self.watched.borrow();
        // A folder of ours as a whole, or more events than the kernel keeps.
        let Some(name) = name.map(|name| OsStr::from_bytes(name.to_bytes())) else {
            self.changed.notify_one();
            return;
        };
        match watched.get(&watch) {
            Some(Watched::Desired { kind }) if !name.as_bytes().starts_with(b".") => {
                if !kind.is_empty() || name == "host.json" {
                    self.desired.set(true);
                }
                self.changed.notify_one();
            }
            Some(Watched::Named(names)) if names.contains(name) => self.changed.notify_one(),
            _ => {}
        }
    }
}

#[allow(
    unsafe_code,
    reason = "tokio has no safe way to wait for a descriptor of this kind"
)]
fn readable(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the owned descriptor is valid, and moves in, so that nobody else closes it.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
