//! The profile that a name means: a built-in one, or a file of the site.

use std::io::Read;
use std::path::Path;

use super::error::ProfileError;
use super::names::is_profile_name;
use super::profile::SeccompProfile;

/// The longest profile file that is read. The built-in ones take about 20 KiB.
pub(super) const MAX_FILE: u64 = 256 * 1024;

impl SeccompProfile {
    /// The profile that a definition calls `name`: built in, or `site_dir/NAME.toml`.
    ///
    /// A built-in name always means the built-in profile, so that `default` is the same on every node.
    ///
    /// # Errors
    /// [`ProfileError`], if there is none, if it cannot be read, or if it is wrong.
    pub fn load(name: &str, site_dir: &Path) -> Result<Self, ProfileError> {
        // The name comes from a slice's definition and becomes a path: check it before it does.
        let looked = site_dir.join(format!("{name}.toml"));
        let unknown =
            || ProfileError::Unknown { name: name.to_owned(), looked: looked.display().to_string() };
        if !is_profile_name(name) {
            return Err(unknown());
        }
        let site = read_site_file(&looked)?;
        match (Self::builtin_text(name), site) {
            (Some(_), Some(_)) => {
                Err(ProfileError::Shadows { file: looked.display().to_string(), name: name.to_owned() })
            }
            (Some(text), None) => Self::parse(text, name, &|base| find_text(base, site_dir)),
            (None, Some(text)) => {
                let origin = looked.display().to_string();
                let profile = Self::parse(&text, &origin, &|base| find_text(base, site_dir))?;
                if profile.name != name {
                    let expected = format!("{name:?}, like the file");
                    let read = format!("{:?}", profile.name);
                    return Err(ProfileError::Value {
                        file: origin,
                        line: 1,
                        key: "name".into(),
                        read,
                        expected,
                    });
                }
                Ok(profile)
            }
            (None, None) => Err(unknown()),
        }
    }
}

/// The text of a profile that another one names as its base; a broken site file is found again, and
/// reported, when it is asked for by name.
fn find_text(name: &str, site_dir: &Path) -> Option<String> {
    if !is_profile_name(name) {
        return None;
    }
    match SeccompProfile::builtin_text(name) {
        Some(text) => Some(text.to_owned()),
        None => read_site_file(&site_dir.join(format!("{name}.toml"))).ok().flatten(),
    }
}

fn read_site_file(path: &Path) -> Result<Option<String>, ProfileError> {
    let failed = |source| ProfileError::Read { file: path.display().to_string(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed(std::io::Error::other(format!("longer than {MAX_FILE} bytes"))));
    }
    Ok(Some(text))
}
