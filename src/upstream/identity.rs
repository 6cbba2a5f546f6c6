//! Who an encrypted server has to prove to be: a name, and the authorities that may vouch for it (RFC 8310 section 8.1).

use std::fmt;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

/// A server's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name that its certificate has to be for: a host's, or an address.
    pub name: Arc<str>,
    /// Where it answers over HTTPS; nothing for DNS over TLS.
    pub path: Option<Arc<str>>,
    /// Who may vouch for it.
    pub roots: Arc<Roots>,
}

impl Identity {
    /// True for what can stand in a certificate as a server's name.
    pub fn is_name(name: &str) -> bool {
        ServerName::try_from(name).is_ok()
    }
}

/// Certificate authorities that are believed, and the TLS settings made of them, which all connections share: a session
/// that one of them began can be taken up by another.
pub struct Roots {
    file: Option<String>,
    pem: Vec<u8>,
    tls: ClientConfig,
}

impl Roots {
    /// The authorities of Mozilla's list, as it was when the program was built.
    ///
    /// # Errors
    /// What keeps TLS from being used at all.
    pub fn built_in() -> Result<Roots, String> {
        let mut store = RootCertStore::empty();
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        Ok(Roots { file: None, pem: vec![], tls: tls(store)? })
    }

    /// The authorities of a PEM file, and no others.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn from_pem(file: &str, pem: Vec<u8>) -> Result<Roots, String> {
        let mut store = RootCertStore::empty();
        for (index, certificate) in CertificateDer::pem_slice_iter(&pem).enumerate() {
            let why = |error: &dyn fmt::Display| format!("certificate {} in it: {error}", index + 1);
            let certificate = certificate.map_err(|error| why(&error))?;
            store.add(certificate).map_err(|error| why(&error))?;
        }
        if store.is_empty() {
            return Err("no certificate in it".into());
        }
        Ok(Roots { file: Some(file.into()), tls: tls(store)?, pem })
    }

    /// The file they are from.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The TLS settings.
    pub fn tls(&self) -> &ClientConfig {
        &self.tls
    }
}

fn tls(store: RootCertStore) -> Result<ClientConfig, String> {
    // Named here, so that no other crate's choice of a provider can take its place.
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roots").field(&self.file).finish()
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Roots) -> bool {
        (&self.file, &self.pem) == (&other.file, &other.pem)
    }
}

impl Eq for Roots {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_usable_certificate_says_so() {
        let error = |pem: &str| Roots::from_pem("ca.pem", pem.into()).unwrap_err();
        assert_eq!(error(""), "no certificate in it");
        assert_eq!(error("nameserver 192.0.2.1\n"), "no certificate in it");
        let begin = "-----BEGIN CERTIFICATE-----\n";
        assert!(error(&format!("{begin}AAAA")).starts_with("certificate 1 in it: "));
        assert!(
            error(&format!("{begin}AAAA\n-----END CERTIFICATE-----\n")).starts_with("certificate 1 in it: ")
        );
    }

    #[test]
    fn names_are_hosts_or_addresses() {
        assert!(["dns.example", "192.0.2.1", "2001:db8::1"].iter().all(|name| Identity::is_name(name)));
        assert!(["", "a b", "-.example", "exa mple"].iter().all(|name| !Identity::is_name(name)));
    }

    #[test]
    fn the_built_in_authorities_can_be_used() {
        assert!(Roots::built_in().is_ok_and(|roots| roots.file().is_none()));
    }
}
