//! Enumerations that are one byte on the wire and a word in JSON.

/// Declares an enumeration with its codes and words, and what goes with them: `ALL` in the order of the codes, `name` and
/// `from_code`. Codes never change and are never used again.
macro_rules! coded {
    (
        $(#[$about:meta])*
        pub enum $name:ident {
            $($(#[$detail:meta])* $variant:ident = $code:literal $word:literal,)+
        }
    ) => {
        $(#[$about])*
        #[derive(
            rkyv::Archive, rkyv::Serialize, rkyv::Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd,
            Ord, serde::Serialize, serde::Deserialize,
        )]
        #[rkyv(derive(Debug, Clone, Copy, PartialEq, Eq))]
        #[repr(u8)]
        pub enum $name {
            $($(#[$detail])* #[serde(rename = $word)] $variant = $code,)+
        }

        impl $name {
            /// All of them, in the order of their codes.
            pub const ALL: [Self; [$($code),+].len()] = [$(Self::$variant),+];

            /// The word that `--json` shows.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// What a code stands for, unless it is unknown.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
