//! Stands in for the `hcloud` and `tls` providers, which need an account and the internet, so that the example for
//! Hetzner can be planned and applied as it stands: the "server" that it sells is one of the lab's.
//!
//! Its values come from the environment: `ACCOUNT_SERVER`, `ACCOUNT_HOST_KEY`, `ACCOUNT_IPV4`, `ACCOUNT_IPV6_NETWORK`.

use std::{env, process::ExitCode};

use tfplugin::{
    Attr, Context, Create, Diagnostics, Failed, Provider, Resource, Server, State, Update,
};

tfplugin::model! {
    /// Settings of the account: none.
    pub struct Settings {
        /// The token of the account.
        token: Attr<String> => optional(),
    }
}

tfplugin::model! {
    /// A public key of the account.
    pub struct SshKey {
        /// Its id.
        id: Attr<String> => computed(),
        /// Its name.
        name: Attr<String> => required(),
        /// The key itself.
        public_key: Attr<String> => required(),
    }
}

tfplugin::model! {
    /// A virtual server.
    pub struct CloudServer {
        /// Its id, a number as text.
        id: Attr<String> => computed(),
        /// Its name.
        name: Attr<String> => required(),
        /// The operating system that it starts with.
        image: Attr<String> => required(),
        /// How large it is.
        server_type: Attr<String> => required(),
        /// Where it stands.
        location: Attr<String> => optional(),
        /// Keys that are let in.
        ssh_keys: Attr<Vec<String>> => optional(),
        /// For cloud-init.
        user_data: Attr<String> => optional(),
        /// Its own address.
        ipv4_address: Attr<String> => computed(),
    }
}

tfplugin::model! {
    /// An address that moves between servers.
    pub struct FloatingIp {
        /// Its id.
        id: Attr<String> => computed(),
        /// `ipv4` or `ipv6`.
        r#type: Attr<String> => required(),
        /// The server that it leads to.
        server_id: Attr<i64> => optional(),
        /// The address, or the first of its network.
        ip_address: Attr<String> => computed(),
        /// The network of an IPv6.
        ip_network: Attr<String> => computed(),
    }
}

tfplugin::model! {
    /// A key made in the graph.
    pub struct PrivateKey {
        /// Its id.
        id: Attr<String> => computed(),
        /// Its algorithm.
        algorithm: Attr<String> => required(),
        /// The private half.
        private_key_openssh: Attr<String> => computed().sensitive(),
        /// The public half, with a line end as the real provider gives it.
        public_key_openssh: Attr<String> => computed(),
    }
}

fn value(name: &str) -> Attr<String> {
    env::var(name).unwrap_or_default().into()
}

macro_rules! sold {
    ($type:ident, $model:ident, $name:literal, $fill:expr) => {
        struct $type;

        impl Resource for $type {
            type Model = $model;
            type Private = ();
            const NAME: &'static str = $name;

            async fn create(
                &self,
                request: Create<Self>,
                _: &Context,
            ) -> Result<State<Self>, Failed<Self>> {
                let fill: fn(&mut $model) = $fill;
                let mut model = request.planned;
                model.id = "42".into();
                fill(&mut model);
                Ok(State::new(model, ()))
            }

            async fn read(
                &self,
                state: State<Self>,
                _: &Context,
            ) -> Result<Option<State<Self>>, Diagnostics> {
                Ok(Some(state))
            }

            async fn update(
                &self,
                request: Update<Self>,
                _: &Context,
            ) -> Result<State<Self>, Failed<Self>> {
                Ok(State::new(request.planned, ()))
            }

            async fn delete(&self, _: State<Self>, _: &Context) -> Result<(), Failed<Self>> {
                Ok(())
            }
        }
    };
}

sold!(SshKeys, SshKey, "hcloud_ssh_key", |_| ());
sold!(CloudServers, CloudServer, "hcloud_server", |server| {
    server.ipv4_address = value("ACCOUNT_SERVER");
});
sold!(FloatingIps, FloatingIp, "hcloud_floating_ip", |floating| {
    let network = env::var("ACCOUNT_IPV6_NETWORK").unwrap_or_default();
    if floating.r#type.as_deref() == Some("ipv6") {
        floating.ip_address = network.split('/').next().unwrap_or_default().into();
        floating.ip_network = network.into();
    } else {
        floating.ip_address = value("ACCOUNT_IPV4");
        floating.ip_network = "".into();
    }
});
sold!(PrivateKeys, PrivateKey, "tls_private_key", |key| {
    key.private_key_openssh = "not a key".into();
    key.public_key_openssh =
        format!("{}\n", env::var("ACCOUNT_HOST_KEY").unwrap_or_default()).into();
});

struct Account;

impl Provider for Account {
    type Config = Settings;

    async fn configure(&self, _: Settings, _: &Context) -> Result<(), Diagnostics> {
        Ok(())
    }
}

fn main() -> ExitCode {
    // Installed under both names: a provider may offer resources of its own prefix only.
    let program = env::args().next().unwrap_or_default();
    if program.ends_with("-tls") {
        return Server::new("registry.terraform.io/hashicorp/tls", "0.0.0", Account)
            .resource(PrivateKeys)
            .serve();
    }
    Server::new(
        "registry.terraform.io/hetznercloud/hcloud",
        "0.0.0",
        Account,
    )
    .resource(SshKeys)
    .resource(CloudServers)
    .resource(FloatingIps)
    .serve()
}
