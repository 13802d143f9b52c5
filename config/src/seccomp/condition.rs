//! One condition of a `when`, from the file to its meaning.

use toml::Spanned;

use super::error::ProfileError;
use super::file_format::FileCondition;
use super::profile::{Condition, Test};
use super::source::Source;

impl Source<'_> {
    pub(super) fn condition(&self, condition: Spanned<FileCondition>) -> Result<Condition, ProfileError> {
        let at = condition.span();
        let FileCondition { arg, mask, r#in, not_in, any_bits } = condition.into_inner();
        let number = u8::try_from(*arg.get_ref()).ok().filter(|number| *number <= 5).ok_or_else(|| {
            self.wrong(arg.span(), "deny.when.arg", arg.get_ref(), "the number of an argument, from 0 to 5")
        })?;
        let test = match (r#in, not_in, any_bits, &mask) {
            (Some(values), None, None, _) => {
                let bits = mask.as_ref().map_or(Ok(u32::MAX), |bits| self.u32("deny.when.mask", bits))?;
                for value in &values {
                    if self.u32("deny.when.in", value)? & !bits != 0 {
                        let expected = format!("no bit outside the mask {bits:#x}, else it never matches");
                        return Err(self.wrong(value.span(), "deny.when.in", value.get_ref(), expected));
                    }
                }
                Test::In { mask: bits, values: self.values("deny.when.in", values, &at)? }
            }
            (None, Some(values), None, None) => Test::NotIn(self.values("deny.when.not_in", values, &at)?),
            (None, None, Some(bits), None) => {
                for bit in &bits {
                    if !self.u32("deny.when.any_bits", bit)?.is_power_of_two() {
                        return Err(self.wrong(
                            bit.span(),
                            "deny.when.any_bits",
                            bit.get_ref(),
                            "a single bit",
                        ));
                    }
                }
                Test::AnyBits(self.values("deny.when.any_bits", bits, &at)?)
            }
            _ => {
                let read = self.text.get(at.clone()).unwrap_or_default();
                let expected = "exactly one of in, not_in and any_bits; mask goes with in";
                return Err(self.wrong(at, "deny.when", read, expected));
            }
        };
        Ok(Condition { arg: number, test })
    }
}
