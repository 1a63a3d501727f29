//! Alerts: what the other side says when it ends a handshake (RFC 8446, 6).

use rustls::AlertDescription;

/// An alert in words, with the name that other programs show.
pub fn words(alert: AlertDescription) -> String {
    match known(alert) {
        Some((name, meaning)) => format!("{meaning} ({name})"),
        None => format!("it gave a reason without a name ({})", u8::from(alert)),
    }
}

/// What a peer's alert says about the certificate that it was shown; `None` if it is about something else.
pub fn about_certificate(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::UnknownCA => "it does not know its authority (unknown_ca)",
        AlertDescription::CertificateExpired => "it has expired (certificate_expired)",
        AlertDescription::CertificateRevoked => "it is revoked (certificate_revoked)",
        AlertDescription::BadCertificate => "it is not good (bad_certificate)",
        AlertDescription::UnsupportedCertificate => "its kind is not taken (unsupported_certificate)",
        AlertDescription::CertificateUnknown => "it is not taken (certificate_unknown)",
        AlertDescription::AccessDenied => "access denied (access_denied)",
        AlertDescription::HandshakeFailure => "no agreement (handshake_failure)",
        _ => return None,
    })
}

/// Whether it says no more than that the certificate is not taken, which is all that many say of any reason.
pub fn gives_no_reason(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
    )
}

fn known(alert: AlertDescription) -> Option<(&'static str, &'static str)> {
    Some(match alert {
        AlertDescription::CloseNotify => ("close_notify", "it said goodbye"),
        AlertDescription::UnexpectedMessage => ("unexpected_message", "it expected another message"),
        AlertDescription::BadRecordMac => ("bad_record_mac", "what it received had been changed on the way"),
        AlertDescription::DecryptionFailed => ("decryption_failed", "it could not decrypt what it received"),
        AlertDescription::RecordOverflow => ("record_overflow", "a record was too long for it"),
        AlertDescription::DecompressionFailure => {
            ("decompression_failure", "it could not decompress what it received")
        }
        AlertDescription::HandshakeFailure => {
            ("handshake_failure", "there is nothing that both sides can do")
        }
        AlertDescription::NoCertificate => ("no_certificate", "it has no certificate"),
        AlertDescription::BadCertificate => ("bad_certificate", "the certificate is not good"),
        AlertDescription::UnsupportedCertificate => {
            ("unsupported_certificate", "it takes no certificate of that kind")
        }
        AlertDescription::CertificateRevoked => ("certificate_revoked", "the certificate is revoked"),
        AlertDescription::CertificateExpired => ("certificate_expired", "the certificate has expired"),
        AlertDescription::CertificateUnknown => ("certificate_unknown", "it does not take the certificate"),
        AlertDescription::IllegalParameter => ("illegal_parameter", "something in a message was not allowed"),
        AlertDescription::UnknownCA => ("unknown_ca", "it does not know the certificate's authority"),
        AlertDescription::AccessDenied => ("access_denied", "it denies access"),
        AlertDescription::DecodeError => ("decode_error", "it could not read a message"),
        AlertDescription::DecryptError => ("decrypt_error", "it could not verify a signature"),
        AlertDescription::ExportRestriction => ("export_restriction", "it asks for weak keys"),
        AlertDescription::ProtocolVersion => ("protocol_version", "it does not speak this version of TLS"),
        AlertDescription::InsufficientSecurity => {
            ("insufficient_security", "it asks for stronger ciphers or keys")
        }
        AlertDescription::InternalError => ("internal_error", "something went wrong within it"),
        AlertDescription::InappropriateFallback => {
            ("inappropriate_fallback", "it speaks a later version of TLS than was asked for")
        }
        AlertDescription::UserCanceled => ("user_canceled", "somebody stopped it"),
        AlertDescription::NoRenegotiation => ("no_renegotiation", "it does not begin anew"),
        AlertDescription::MissingExtension => ("missing_extension", "it misses something in a message"),
        AlertDescription::UnsupportedExtension => {
            ("unsupported_extension", "it was told something that it did not ask for")
        }
        AlertDescription::CertificateUnobtainable => {
            ("certificate_unobtainable", "it could not fetch the certificate")
        }
        AlertDescription::UnrecognisedName => ("unrecognized_name", "it knows no server of that name"),
        AlertDescription::BadCertificateStatusResponse => {
            ("bad_certificate_status_response", "what was said of the certificate's revocation is not good")
        }
        AlertDescription::BadCertificateHashValue => {
            ("bad_certificate_hash_value", "the certificate is another one than was announced")
        }
        AlertDescription::UnknownPSKIdentity => {
            ("unknown_psk_identity", "it does not know the session or the key")
        }
        AlertDescription::CertificateRequired => ("certificate_required", "it demands a client certificate"),
        AlertDescription::NoApplicationProtocol => {
            ("no_application_protocol", "it wants another protocol inside of TLS (ALPN)")
        }
        AlertDescription::EncryptedClientHelloRequired => {
            ("ech_required", "it wants the name of the server encrypted (ECH)")
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alert_has_words() {
        let mut named = 0;
        for number in 0..=u8::MAX {
            let alert = AlertDescription::from(number);
            let words = words(alert);
            if let AlertDescription::Unknown(_) = alert {
                assert!(words.contains(&format!("({number})")), "{words}");
            } else {
                named += 1;
                assert!(!words.contains("without a name"), "{number}: {words}");
            }
        }
        assert_eq!(named, 35);
    }
}
