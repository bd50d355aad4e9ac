//! What becomes of a change whose connection drops, of its time, and of the claim on what was made: the
//! resources' operations, over a real sshd.

use std::{
    fs,
    net::TcpStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use protocol::{
    desired::{self, ContainerSecrets, Desired, ObjectKey, Timeouts},
    message::{Intent, Put},
};
use tfplugin::{CancellationToken, Context, Create, Diagnostics, Failed, State};

use super::{
    super::{CallError, ConnectionErrorKind, Credentials, Target},
    fake_agent::{MACHINE, OTHER_MACHINE, made},
    server::{Server, join, read, until},
};
use crate::{
    fixture,
    hosts::Hosts,
    resources::{
        Managed, Private,
        host::{Host, HostResource},
        image::{Image, ImageResource},
    },
};

/// A provider that is configured for this server, and what stops it.
pub(super) fn provider(server: &Server, credentials: Credentials) -> (Arc<Hosts>, Context) {
    let hosts = Hosts::new("0123456789abcdef0123456789abcdef".parse().unwrap());
    let context = Context::new(CancellationToken::new());
    hosts.connect_with(server.pool(credentials), &context);
    (Arc::new(hosts), context)
}

/// An image whose name tells the stand-in what to do.
pub(super) fn image(target: &Target, name: &str) -> Image {
    model::<ImageResource>(target, desired_image(name))
}

pub(super) fn desired_image(name: &str) -> Desired {
    Desired::Image(desired::Image {
        name: name.parse().unwrap(),
        source: desired::ImageSource::Tarball(desired::Tarball {
            location: desired::TarballLocation::Path("a".into()),
            sha256: "0".repeat(64),
        }),
        customize: None,
        timeouts: None,
    })
}

/// A host whose bridge tells the stand-in what to do.
fn host(target: &Target, bridge: &str, rollback_after: &str) -> Host {
    let desired = Desired::Host(desired::Host {
        bridge: bridge.parse().unwrap(),
        uplink: None,
        install_packages: false,
        nesting: false,
        isolation: true,
        rollback_after: rollback_after.parse().unwrap(),
        timeouts: Some(Timeouts {
            create: Some("30s".parse().unwrap()),
            ..Timeouts::default()
        }),
    });
    model::<HostResource>(target, desired)
}

fn model<R: Managed>(target: &Target, desired: Desired) -> R::Model {
    let key = desired.key();
    let (_, object) = made(Put {
        desired,
        token: fixture::token('0'),
        intent: Intent::Create,
        deadline: 1,
        secrets: ContainerSecrets::default(),
    });
    let mut model = R::Model::default();
    R::locate(&mut model, target, &key);
    R::observe(&mut model, &object);
    model
}

async fn create<R: Managed>(
    resource: &R,
    planned: R::Model,
    context: &Context,
) -> Result<State<R>, Failed<R>> {
    let request = Create {
        config: planned.clone(),
        planned,
        private: Private::default(),
    };
    Box::pin(resource.create(request, context)).await
}

async fn create_image(
    server: &Server,
    hosts: &Arc<Hosts>,
    context: &Context,
    name: &str,
) -> Result<State<ImageResource>, Failed<ImageResource>> {
    let hosts = Arc::clone(hosts);
    create(
        &ImageResource { hosts },
        image(&server.target(), name),
        context,
    )
    .await
}

fn failed<R: Managed>(result: Result<State<R>, Failed<R>>) -> (Option<State<R>>, Diagnostics) {
    match result {
        Ok(_) => panic!("it was made"),
        Err(failed) => (failed.partial, failed.diagnostics),
    }
}

#[tokio::test]
async fn a_create_that_is_refused_when_it_is_sent_again_is_looked_for() {
    for (name, stays) in [("busy-later", true), ("newer-later", true), ("busy", false)] {
        let server = Server::new();
        let (hosts, context) = provider(&server, server.credentials());
        let result = create_image(&server, &hosts, &context, name).await;
        let (partial, diagnostics) = failed(result);
        let token = partial.and_then(|state| state.private.token);
        assert_eq!(token.is_some(), stays, "{name}: {diagnostics}");
        if let Some(token) = token {
            assert!(read(&server.path("notes/object")).contains(token.as_str()));
        }
    }
}

/// What the provider claimed as it ended.
fn claimed(server: &Server) -> String {
    fs::read_to_string(server.path("notes/claimed")).unwrap_or_default()
}

#[tokio::test]
async fn what_a_state_has_got_is_claimed_at_the_end() {
    let server = Server::new();
    let (hosts, context) = provider(&server, server.credentials());
    let result = create_image(&server, &hosts, &context, "debian").await;
    assert!(result.is_ok());
    hosts.shut_down().await;
    assert!(claimed(&server).contains("debian"), "{}", claimed(&server));
}

#[tokio::test]
async fn what_was_made_when_terraform_was_asked_to_stop_is_not_claimed() {
    let server = Server::new();
    let (hosts, context) = provider(&server, server.credentials());
    let result = create_image(&server, &hosts, &context, "debian").await;
    assert!(result.is_ok());
    context.cancellation().cancel();
    hosts.shut_down().await;
    assert_eq!(claimed(&server), "");
}

#[tokio::test]
async fn what_is_being_made_is_not_claimed() {
    let server = Server::new();
    let (hosts, context) = provider(&server, server.credentials());
    let under_way = create_image(&server, &hosts, &context, "waits");
    let ended = async {
        while !server.path("notes/waiting").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        hosts.shut_down().await;
    };
    let _ = tokio::join!(under_way, ended);
    assert_eq!(claimed(&server), "");
}

#[tokio::test]
async fn what_was_rolled_back_is_not_claimed() {
    let server = Server::new();
    let (hosts, context) = provider(&server, server.credentials());
    let resource = HostResource {
        hosts: Arc::clone(&hosts),
    };
    let planned = host(&server.target(), "undone", "30s");
    let (partial, diagnostics) = failed(create(&resource, planned, &context).await);
    assert!(partial.is_none(), "{diagnostics}");
    let text = diagnostics.to_string();
    assert!(
        text.contains("rolled back") && text.contains("isolation true -> "),
        "{text}"
    );
    assert!(
        !text.contains('\x1b'),
        "the host's words reach the terminal: {text:?}"
    );
    hosts.shut_down().await;
    assert_eq!(claimed(&server), "");
}

/// A host that shuts down may lose systemd, and the answer with it, once the change is made.
#[tokio::test]
async fn a_change_that_failed_is_told_as_rolled_back_when_it_was() {
    for (bridge, is_told) in [("fails-undone", true), ("fails", false)] {
        let server = Server::new();
        let (hosts, context) = provider(&server, server.credentials());
        let planned = host(&server.target(), bridge, "30s");
        let (_, diagnostics) = failed(create(&HostResource { hosts }, planned, &context).await);
        let text = diagnostics.to_string();
        assert!(text.contains("refused"), "{text}");
        assert_eq!(text.contains("rolled back"), is_told, "{text}");
    }
}

/// Removes an image with a limit.
async fn remove(
    (hosts, context): &(Arc<Hosts>, Context),
    target: &Target,
    name: &str,
    limit: Duration,
) -> Result<(), CallError> {
    let key = ObjectKey::Image(name.parse().unwrap());
    let token = fixture::token('0');
    hosts
        .remove(target, Some(MACHINE), key, token, limit, context)
        .await
}

#[tokio::test]
async fn a_removal_takes_its_time_for_connecting_too() {
    let server = Server::new();
    let (listener, target) = server.gate();
    let port = server.port;
    let slow = thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        // The time that connecting takes is what is tried here.
        thread::sleep(Duration::from_secs(3));
        join(near, TcpStream::connect(("127.0.0.1", port)).unwrap());
    });
    let provider = provider(&server, server.credentials());
    let limit = Duration::from_mins(1);
    remove(&provider, &target, "x", limit).await.unwrap();
    slow.join().unwrap();
    let deadline: u64 = read(&server.path("notes/deadline")).parse().unwrap();
    assert!((1..=57).contains(&deadline), "{deadline} s were left");
}

#[tokio::test]
async fn a_removal_connects_no_longer_than_it_may_take() {
    let server = Server::new();
    let (_silent, target) = server.gate();
    let credentials = Credentials {
        connect_timeout: Duration::from_mins(1),
        ..server.credentials()
    };
    let provider = provider(&server, credentials);
    let begun = Instant::now();
    let limit = Duration::from_secs(2);
    let error = remove(&provider, &target, "x", limit).await.unwrap_err();
    assert!(
        error.to_string().contains("no connection within 2 s"),
        "{error}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_host_that_never_comes_up_says_why() {
    let server = Server::new();
    let (hosts, context) = provider(&server, server.credentials());
    let (refusing, target) = server.gate();
    drop(refusing);
    let mut planned = host(&target, "br0", "0s");
    let create_limit = crate::timeouts::from_desired(Some(&Timeouts {
        create: Some("3s".parse().unwrap()),
        ..Timeouts::default()
    }));
    planned.timeouts = create_limit;
    let begun = Instant::now();
    let (partial, diagnostics) = failed(create(&HostResource { hosts }, planned, &context).await);
    assert!(partial.is_none());
    assert!(diagnostics.to_string().contains("refused"), "{diagnostics}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_request_is_not_sent_again_to_another_machine() {
    let server = Server::new();
    let provider = provider(&server, server.credentials());
    let limit = Duration::from_mins(1);
    let removed = remove(&provider, &server.target(), "fails-over", limit).await;
    let error = removed.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(MACHINE) && text.contains(OTHER_MACHINE),
        "{text}"
    );
    let CallError::Connection(connection) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(connection.kind, ConnectionErrorKind::OutcomeUnknown);
    assert!(
        error.help().unwrap().contains("Correct the address"),
        "{error:?}"
    );

    let server = Server::new();
    let (hosts, context) = self::provider(&server, server.credentials());
    let result = create_image(&server, &hosts, &context, "fails-over").await;
    let (partial, diagnostics) = failed(result);
    assert!(
        diagnostics.to_string().contains(OTHER_MACHINE),
        "{diagnostics}"
    );
    assert!(partial.is_some(), "it may be on the first machine");
}

#[tokio::test]
async fn a_change_that_a_boot_has_undone_is_told_and_not_made_anew() {
    let server = Server::new();
    let (hosts, context) = provider(&server, server.credentials());
    let planned = host(&server.target(), "reboots", "30s");
    let (_, diagnostics) = failed(create(&HostResource { hosts }, planned, &context).await);
    let text = diagnostics.to_string();
    assert!(text.contains("was rolled back, because"), "{text}");
    assert!(!server.path("notes/object").exists(), "it was made again");
}

#[tokio::test]
async fn a_host_that_reboots_while_it_is_made_is_waited_for() {
    let server = Server::new();
    let connect_timeout = Duration::from_secs(2);
    let credentials = Credentials {
        connect_timeout,
        ..server.credentials()
    };
    let (hosts, context) = provider(&server, credentials);
    let (listener, target) = server.gate();
    let (port, died) = (server.port, server.path("notes/died"));
    thread::spawn(move || {
        let far = || TcpStream::connect(("127.0.0.1", port)).unwrap();
        join(listener.accept().unwrap().0, far());
        until("the connection drops", || died.exists());
        // As a booting sshd does, for longer than any host is tried again that isn't waited for.
        let down = Instant::now() + connect_timeout * 2;
        for near in listener.incoming() {
            if Instant::now() > down {
                join(near.unwrap(), far());
            }
        }
    });
    let planned = host(&target, "dies-once", "0s");
    let result = create(&HostResource { hosts }, planned, &context).await;
    if let Err(failed) = result {
        panic!("{}", failed.diagnostics);
    }
}
