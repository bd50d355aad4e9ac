//! The desired state that the host holds: one small file an object under /etc/nspawn-agent.
//!
//! A file is replaced as a whole (temporary file, fsync, rename, fsync of the folder), so that a
//! crash leaves the old or the new one, never half of either.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

use protocol::{
    Failure, FailureKind,
    desired::{Address, Container, Host, Image},
    name::{ImageName, MachineName, SessionId},
    observed::Owner,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{failure::Context as _, lock, system::files};

/// Where the desired state lives.
pub const FOLDER: &str = "/etc/nspawn-agent";

/// Where the records of containers are that are being removed.
const REMOVALS: &str = "removals";

/// All folders of the store, and itself at the end.
const FOLDERS: [&str; 6] = ["images", "containers", "addresses", "secrets", REMOVALS, ""];

/// One object, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "D: Serialize, D::Assigned: Serialize",
    deserialize = "D: DeserializeOwned, D::Assigned: DeserializeOwned"
))]
pub struct Stored<D: Kept> {
    /// Whose it is.
    pub owner: Owner,
    /// The provider process that made it: while it is unclaimed, and that process is gone,
    /// another create may adopt it.
    pub session: SessionId,
    /// As it should be.
    pub desired: D,
    /// What the host chose for it.
    pub assigned: D::Assigned,
}

/// A kind of object that the store keeps.
pub trait Kept: Clone + PartialEq + Serialize + DeserializeOwned {
    /// What the host chooses for such an object and keeps beside it.
    type Assigned: Clone + PartialEq + Serialize + DeserializeOwned;
    /// The folder of this kind; the host is a single file.
    const FOLDER: &'static str;
    /// The object's name within its kind.
    fn name(&self) -> String;
}

impl Kept for Host {
    type Assigned = crate::host::Assigned;
    const FOLDER: &'static str = "";
    fn name(&self) -> String {
        "host".to_owned()
    }
}

impl Kept for Image {
    type Assigned = crate::image::Assigned;
    const FOLDER: &'static str = "images";
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Kept for Container {
    type Assigned = crate::container::Assigned;
    const FOLDER: &'static str = "containers";
    fn name(&self) -> String {
        self.name.to_string()
    }
}

impl Kept for Address {
    type Assigned = crate::address::Assigned;
    const FOLDER: &'static str = "addresses";
    fn name(&self) -> String {
        self.address.canonical()
    }
}

/// Every object of this host, read once.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// The host itself.
    pub host: Option<Stored<Host>>,
    /// Images by name.
    pub images: BTreeMap<ImageName, Stored<Image>>,
    /// Containers by name.
    pub containers: BTreeMap<MachineName, Stored<Container>>,
    /// Addresses by canonical form.
    pub addresses: BTreeMap<String, Stored<Address>>,
}

impl Inventory {
    /// The addresses of one container, in order.
    pub fn addresses_of(&self, container: &MachineName) -> impl Iterator<Item = &Stored<Address>> {
        let container = container.clone();
        self.addresses
            .values()
            .filter(move |stored| stored.desired.container == container)
    }
}

/// The folder of desired files.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// A store in this folder; it is made with the first object.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The folder, for files beside the objects.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Every object of this host.
    pub fn inventory(&self) -> Result<Inventory, Failure> {
        let keyed = |error: protocol::name::InvalidName| {
            Failure::new(FailureKind::System, format!("a desired file: {error}"))
        };
        Ok(Inventory {
            host: self.get::<Host>("host")?,
            images: self
                .all::<Image>()?
                .into_iter()
                .map(|(name, stored)| Ok((name.parse().map_err(keyed)?, stored)))
                .collect::<Result<_, Failure>>()?,
            containers: self
                .all::<Container>()?
                .into_iter()
                .map(|(name, stored)| Ok((name.parse().map_err(keyed)?, stored)))
                .collect::<Result<_, Failure>>()?,
            addresses: self.all::<Address>()?,
        })
    }

    /// One object by its name.
    pub fn get<D: Kept>(&self, name: &str) -> Result<Option<Stored<D>>, Failure> {
        read(&self.path::<D>(name))
    }

    /// Opens the record of an object that is there. It tells for as long as it is open whether the object was put since:
    /// that makes another file, which can't get this one's number meanwhile.
    pub fn open<D: Kept>(&self, name: &str) -> Result<File, Failure> {
        let path = self.path::<D>(name);
        File::open(&path).doing(|| format!("open {}", path.display()))
    }

    /// Whether an open record is still the object's.
    pub fn is_record<D: Kept>(&self, name: &str, record: &File) -> Result<bool, Failure> {
        let path = self.path::<D>(name);
        lock::is_at(&path, record).doing(|| format!("look at {}", path.display()))
    }

    /// All objects of a kind, by name.
    pub fn all<D: Kept>(&self) -> Result<BTreeMap<String, Stored<D>>, Failure> {
        all_in(&self.folder.join(D::FOLDER))
    }

    /// Writes one object.
    pub fn put<D: Kept>(&self, stored: &Stored<D>) -> Result<(), Failure> {
        if D::FOLDER == Container::FOLDER {
            // Its removal must not need room: it may have filled the disk by then.
            files::create_folder(&self.folder.join(REMOVALS), 0o700)?;
        }
        self.put_file(&self.path::<D>(&stored.desired.name()), stored)
    }

    /// The same on a disk that is full: a new file has no room there, but the former one's place is free.
    pub fn put_even_when_full<D: Kept>(&self, stored: &Stored<D>) -> Result<(), Failure> {
        self.put(stored).or_else(|failure| {
            let path = self.path::<D>(&stored.desired.name());
            files::overwrite(&path, &text_of(&path, stored)?).map_err(|_| failure)
        })
    }

    /// Removes one object for good; nothing happens when it isn't there.
    pub fn remove<D: Kept>(&self, name: &str) -> Result<(), Failure> {
        files::remove_for_good(&self.path::<D>(name))
    }

    /// From here on the container is no more: what is left of it is removed by whoever comes next, also when this is cut
    /// off. Its record is kept until then.
    pub fn begin_removal(&self, name: &MachineName) -> Result<(), Failure> {
        let (from, to) = (
            self.path::<Container>(name.as_str()),
            self.removal(name.as_str()),
        );
        // There since the container was made, but for one that was brought back from a backup.
        files::create_folder(&self.folder.join(REMOVALS), 0o700)?;
        // Moved, which a disk without room allows. rename(2)
        files::move_for_good(&from, &to)
    }

    /// The containers of which a removal was begun, and not ended.
    pub fn removals(&self) -> Result<Vec<Stored<Container>>, Failure> {
        Ok(all_in(&self.folder.join(REMOVALS))?.into_values().collect())
    }

    /// A container of which a removal was begun, and not ended.
    pub fn being_removed(&self, name: &MachineName) -> Result<Option<Stored<Container>>, Failure> {
        read(&self.removal(name.as_str()))
    }

    /// Nothing is left of this one.
    pub fn end_removal(&self, name: &MachineName) -> Result<(), Failure> {
        files::remove_for_good(&self.removal(name.as_str()))
    }

    fn removal(&self, name: &str) -> PathBuf {
        self.folder.join(REMOVALS).join(format!("{name}.json"))
    }

    /// Reads a file beside the objects, such as former sysctls.
    pub fn get_beside<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        read(&self.folder.join(name))
    }

    /// Writes a file beside the objects.
    pub fn put_beside<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Failure> {
        self.put_file(&self.folder.join(name), value)
    }

    /// Removes a file beside the objects.
    pub fn remove_beside(&self, name: &str) -> Result<(), Failure> {
        files::remove_for_good(&self.folder.join(name))
    }

    /// Removes the folder with the host's own record, when nothing is left in it. Until then those of each kind
    /// stay, because the resident watches them.
    pub fn remove_if_empty(&self) -> Result<(), Failure> {
        files::remove_empty_folder(&self.folder.join("secrets"))?;
        if self.get::<Host>("host")?.is_some() {
            return Ok(());
        }
        // A create that was killed may have left the hash of a container that never was.
        if self.all::<Container>()?.is_empty() {
            files::remove_tree(&self.folder.join("secrets"))?;
        }
        self.clear_temporaries()?;
        for folder in FOLDERS {
            files::remove_empty_folder(&self.folder.join(folder))?;
        }
        Ok(())
    }

    /// Removes what killed processes have left of files that they were writing.
    pub fn clear_temporaries(&self) -> Result<(), Failure> {
        let mut folders = FOLDERS.iter().map(|folder| self.folder.join(folder));
        folders.try_for_each(|folder| files::clear_temporaries(&folder))
    }

    fn path<D: Kept>(&self, name: &str) -> PathBuf {
        // Only a prefix's name holds a slash; no valid name holds "_" and "/" in the same place.
        self.folder
            .join(D::FOLDER)
            .join(format!("{}.json", name.replace('/', "_")))
    }

    fn put_file<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), Failure> {
        let folder = path.parent().unwrap_or(&self.folder);
        files::create_folder(&self.folder, 0o700)?;
        files::create_folder(folder, 0o700)?;
        files::replace(path, &text_of(path, value)?, 0o600)
    }
}

fn all_in<D: Kept>(folder: &Path) -> Result<BTreeMap<String, Stored<D>>, Failure> {
    let mut all = BTreeMap::new();
    for name in files::names(folder)? {
        if name.strip_suffix(".json").is_some()
            && let Some(stored) = read::<Stored<D>>(&folder.join(&name))?
        {
            all.insert(stored.desired.name(), stored);
        }
    }
    Ok(all)
}

fn text_of<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|error| {
        Failure::new(
            FailureKind::System,
            format!("encode {}: {error}", path.display()),
        )
    })?;
    text.push(b'\n');
    Ok(text)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let Some(text) = files::read(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Failure::new(
            FailureKind::System,
            format!("{} is not what nspawn-agent wrote: {error}", path.display()),
        )
        .help("Restore the file from a backup, or remove it and import or create the object anew.")
    })
}

#[cfg(test)]
mod tests;
