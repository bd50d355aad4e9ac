//! What killed processes have left of files that they were replacing.
//!
//! Each file that is written or removed takes it along. A change that is regretted may find the file as it should be,
//! and write nothing; so this is done after each change, and when the resident service starts.

use std::path::PathBuf;

use protocol::{Failure, desired::Host, name::MachineName};

use crate::{
    container,
    context::Context,
    guest, host,
    store::{Inventory, Stored},
    system::files,
};

/// Removes it; what is being written at the moment stays. The host's lock is held by the caller.
pub fn clear(context: &Context) -> Result<(), Failure> {
    let of_ours = || {
        let inventory = context.store.inventory()?;
        files::clear_left_of_all(&files_of(context, &inventory))
    };
    // One that fails keeps none of the others from being done.
    files::clear_temporaries(&context.run_folder)
        .and(context.store.clear_temporaries())
        .and(of_ours())
}

/// All files of ours that may ever have been begun for these objects, outside of the folders that are ours alone.
fn files_of(context: &Context, inventory: &Inventory) -> Vec<PathBuf> {
    let mut all: Vec<_> = inventory.host.iter().flat_map(of_host).collect();
    for name in inventory.containers.keys() {
        all.extend(of_container(context, name));
    }
    all
}

/// Also those of settings that it has no more.
fn of_host(stored: &Stored<Host>) -> Vec<PathBuf> {
    let with_all = Host {
        nesting: true,
        ..stored.desired.clone()
    };
    let wishes = host::sysctls::Wishes::new();
    let files = host::plan::files(&with_all, &stored.assigned, &wishes);
    let files = files.into_iter().map(|file| file.path.into());
    files.chain(host::install::watched()).collect()
}

fn of_container(context: &Context, name: &MachineName) -> impl Iterator<Item = PathBuf> {
    let written = container::written(name).into_iter();
    written.chain([guest::network::file(context, name)])
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::testing::{in_folder, inventory, within};

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_left_of_a_file_that_no_change_writes_any_more_goes() {
        let folder = tempfile::tempdir().unwrap();
        within(Duration::from_secs(5), async |context| {
            let context = in_folder(context, folder.path());
            let web = inventory(&["web"], &[]).containers.into_values().next();
            context.store.put(&web.unwrap()).unwrap();
            let network = guest::network::file(&context, &"web".parse().unwrap());
            let left_of = |file: &PathBuf| {
                let name = file.file_name().unwrap().to_str().unwrap();
                file.with_file_name(format!(".{name}.nspawn-agent391-2"))
            };
            let record = context.store.folder().join("containers/db.json");
            let loaded = context.run_folder.join("filter.json");
            fs::create_dir_all(network.parent().unwrap()).unwrap();
            for file in [&network, &record, &loaded] {
                fs::write(left_of(file), "half").unwrap();
            }
            clear(&context).unwrap();
            for file in [&network, &record, &loaded] {
                assert!(!left_of(file).exists(), "{}", file.display());
            }
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_looked_for_wherever_files_of_ours_are() {
        within(Duration::from_secs(5), async |context| {
            let files = files_of(&context, &inventory(&["web"], &[]));
            for path in [
                "/etc/sysctl.d/90-nspawn-agent.conf",
                "/etc/systemd/network/00-nspawn-agent-br0.network",
                "/etc/dbus-1/system.d/nspawn-agent.conf",
                "/etc/systemd/system/nspawn-agent.service",
                "/etc/modules-load.d/nspawn-agent.conf",
                "/usr/local/lib/nspawn-agent/nspawn-agent",
                "/etc/systemd/nspawn/web.nspawn",
                "/etc/systemd/system/systemd-nspawn@web.service.d/nspawn-agent.conf",
                "/run/nspawn-agent/started/web",
            ] {
                assert!(files.contains(&path.into()), "{path}: {files:?}");
            }
        })
        .await;
    }
}
