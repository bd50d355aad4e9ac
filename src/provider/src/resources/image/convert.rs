//! nspawn_image between Terraform and the wire.

use protocol::{
    desired::{self, ImageSource, TarballLocation},
    observed::{ImageState, Observed},
};
use tfplugin::{Attr, Diagnostics, Parsed, path};

use super::schema::{Debootstrap, Image, Tarball};
use crate::timeouts;

impl Image {
    /// As the host keeps it.
    pub fn desired(&self) -> Result<desired::Image, Diagnostics> {
        Ok(desired::Image {
            name: self.name.require(path!("name"))?.value().clone(),
            source: self.source()?,
            customize: self.customize.cloned(),
            timeouts: timeouts::to_desired(&self.timeouts),
        })
    }

    fn source(&self) -> Result<ImageSource, Diagnostics> {
        match &self.debootstrap {
            Attr::Known(debootstrap) => debootstrap.desired().map(ImageSource::Debootstrap),
            _ => self
                .tarball
                .require(path!("tarball"))?
                .desired()
                .map(ImageSource::Tarball),
        }
    }

    /// What the host says of it.
    pub fn observe(&mut self, image: &Observed<desired::Image, ImageState>) {
        let Observed {
            desired,
            state,
            drift,
            ..
        } = image;
        self.name = Parsed::new(desired.name.clone()).into();
        (self.debootstrap, self.tarball) = match &desired.source {
            ImageSource::Debootstrap(debootstrap) => (Attr::Known(debootstrap.into()), Attr::Null),
            ImageSource::Tarball(tarball) => (Attr::Null, Attr::Known(tarball.into())),
        };
        self.customize = desired.customize.clone().into();
        self.timeouts = timeouts::from_desired(desired.timeouts.as_ref());
        self.digest = state.digest.clone().into();
        self.os = state.os.clone().into();
        self.size_bytes = i64::try_from(state.size_bytes).unwrap_or(i64::MAX).into();
        self.drift = drift.clone().into();
    }
}

impl Debootstrap {
    fn desired(&self) -> Result<desired::Debootstrap, Diagnostics> {
        Ok(desired::Debootstrap {
            suite: self.suite.require(path!("debootstrap", "suite"))?.clone(),
            mirror: self.mirror.cloned(),
            variant: self
                .variant
                .require(path!("debootstrap", "variant"))?
                .clone(),
            include: self.include.cloned(),
            components: self.components.cloned(),
        })
    }
}

impl From<&desired::Debootstrap> for Debootstrap {
    fn from(debootstrap: &desired::Debootstrap) -> Self {
        Self {
            suite: debootstrap.suite.clone().into(),
            mirror: debootstrap.mirror.clone().into(),
            variant: debootstrap.variant.clone().into(),
            include: debootstrap.include.clone().into(),
            components: debootstrap.components.clone().into(),
        }
    }
}

impl Tarball {
    fn desired(&self) -> Result<desired::Tarball, Diagnostics> {
        let location = match &self.url {
            Attr::Known(url) => TarballLocation::Url(url.clone()),
            _ => TarballLocation::Path(self.path.require(path!("tarball", "path"))?.clone()),
        };
        let sha256 = self.sha256.require(path!("tarball", "sha256"))?.clone();
        Ok(desired::Tarball { location, sha256 })
    }
}

impl From<&desired::Tarball> for Tarball {
    fn from(tarball: &desired::Tarball) -> Self {
        let (url, path) = match &tarball.location {
            TarballLocation::Url(url) => (url.as_str().into(), Attr::Null),
            TarballLocation::Path(path) => (Attr::Null, path.as_str().into()),
        };
        Self {
            url,
            path,
            sha256: tarball.sha256.clone().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::token;
    use protocol::observed::Owner;

    #[test]
    fn every_configured_attribute_comes_back_from_the_host() {
        let debootstrap = Debootstrap {
            suite: "trixie".into(),
            mirror: "http://deb.debian.org/debian".into(),
            variant: "minbase".into(),
            include: vec!["dbus".to_owned()].into(),
            components: Attr::Null,
        };
        let tarball = |url: Attr<String>, path: Attr<String>| Tarball {
            url,
            path,
            sha256: "0a".repeat(32).into(),
        };
        for (debootstrap, tarball) in [
            (Attr::Known(debootstrap), Attr::Null),
            (
                Attr::Null,
                Attr::Known(tarball("https://a/b".to_owned().into(), Attr::Null)),
            ),
            (
                Attr::Null,
                Attr::Known(tarball(Attr::Null, "b.tar".to_owned().into())),
            ),
        ] {
            let image = Image {
                name: Attr::Known("debian-13".parse().unwrap()),
                debootstrap,
                tarball,
                customize: vec!["true".to_owned()].into(),
                ..Image::default()
            };
            let mut seen = Image::default();
            seen.observe(&Observed {
                desired: image.desired().unwrap(),
                owner: Owner {
                    token: token('a'),
                    claimed: true,
                    holder: None,
                },
                state: ImageState {
                    digest: "sha256:0".into(),
                    os: "Debian".into(),
                    size_bytes: 7,
                },
                drift: vec![],
            });
            let computed = Image {
                digest: "sha256:0".into(),
                os: "Debian".into(),
                size_bytes: 7.into(),
                drift: vec![].into(),
                ..image
            };
            assert_eq!(seen, computed);
        }
    }
}
