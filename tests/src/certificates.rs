//! A certificate authority of a test's own, with files for the listener and for clients.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

/// An authority. Its files lie in a directory that the caller keeps.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    params: CertificateParams,
    key: KeyPair,
    serial: u64,
}

/// A certificate with its key, as files.
#[derive(Debug)]
pub struct Files {
    /// PEM.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
    serial: u64,
}

impl Authority {
    /// Makes one; its certificate is `ca.pem` in the directory.
    ///
    /// # Panics
    /// If files cannot be written there.
    #[must_use]
    pub fn new(dir: &Path) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("there is randomness");
        let own = params.self_signed(&key).expect("the parameters are proper");
        write(&dir.join("ca.pem"), &own.pem());
        Authority { dir: dir.to_owned(), params, key, serial: 0 }
    }

    /// PEM of the authority's own certificate.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate for that common name, as a server on 127.0.0.1 and as a client; `file` names its files.
    ///
    /// # Panics
    /// If files cannot be written.
    pub fn issue(&mut self, file: &str, common_name: &str) -> Files {
        self.serial += 1;
        let mut params = CertificateParams::new(vec![format!("{common_name}.example")]).expect("a proper name");
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from(self.serial));
        let key = KeyPair::generate().expect("there is randomness");
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate: Certificate = params.signed_by(&key, &issuer).expect("the parameters are proper");
        let files = Files {
            cert: self.dir.join(format!("{file}.pem")),
            key: self.dir.join(format!("{file}.key")),
            serial: self.serial,
        };
        write(&files.cert, &certificate.pem());
        write(&files.key, &key.serialize_pem());
        files
    }

    /// A list that revokes these certificates.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn revoke(&self, revoked: &[&Files]) -> PathBuf {
        self.revoke_until(revoked, 2099)
    }

    /// The same, with its next update due at the begin of that year.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn revoke_until(&self, revoked: &[&Files], year: i32) -> PathBuf {
        let revoked = revoked.iter().map(|files| RevokedCertParams {
            serial_number: SerialNumber::from(files.serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(year, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        let path = self.dir.join("crl.pem");
        write(&path, &list.signed_by(&issuer).and_then(|list| list.pem()).expect("the parameters are proper"));
        path
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
}
