//! Types that are written and read as one string, in policies, records and on the command line.

/// Gives a type `Serialize`, `Deserialize` and `JsonSchema` through its `Display` and `FromStr`.
///
/// What a policy file may say is thus what the command line takes, and an error names the same rule in both. The last
/// argument is the JSON Schema, without its type.
macro_rules! as_string {
    ($type:ident, { $($schema:tt)* }) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", $($schema)* })
            }
        }
    };
}

pub(crate) use as_string;

#[cfg(test)]
mod tests {
    use crate::{
        attestation::{Firmware, PinPolicy, Slot, TouchPolicy},
        claims::Reason,
        name::{ClusterName, GroupName, UserName},
        ttl::Ttl,
    };
    use serde::{Serialize, de::DeserializeOwned};

    fn round<T: Serialize + DeserializeOwned + schemars::JsonSchema>(text: &str) {
        let value: T = serde_json::from_value(text.into()).unwrap();
        assert_eq!(serde_json::to_value(value).unwrap(), text);
        assert_eq!(schemars::schema_for!(T).get("type").unwrap(), "string");
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        round::<ClusterName>("prod");
        round::<Firmware>("5.7.0");
        round::<GroupName>("jit:oncall:payments");
        round::<PinPolicy>("match-once");
        round::<Reason>("INC-4211");
        round::<Slot>("9a");
        round::<TouchPolicy>("cached");
        round::<Ttl>("1h30m");
        round::<UserName>("alice@example.com");
    }

    #[test]
    fn a_refusal_names_the_rule() {
        let error = serde_json::from_str::<GroupName>(r#""system:masters""#).unwrap_err();
        assert!(error.to_string().contains("belongs to Kubernetes"));
        for firmware in ["5.7", "5.7.0.1", "05.7.0", "5.7.256", "5.+7.0", "5..0", ""] {
            assert!(firmware.parse::<Firmware>().is_err(), "{firmware}");
        }
        for slot in ["9e", "f9", "9d", "81", "96", "9A", "+9a", "09a", "154", ""] {
            assert!(slot.parse::<Slot>().is_err(), "{slot}");
        }
        assert!("Always".parse::<TouchPolicy>().is_err());
        assert!("default".parse::<PinPolicy>().is_err());
    }
}
