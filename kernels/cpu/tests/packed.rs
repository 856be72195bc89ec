//! The order of packed constants, which files hold: whoever changes one raises `PACKED_FORMAT`.

mod common;

use common::{isas, values};
use deepseek_kernels_cpu::conv::{BlockedWeights, ConvShape, Reads};
use deepseek_kernels_cpu::gemm::{Mat, PackedB, SharedFloats};
use deepseek_kernels_cpu::{Level, PACKED_FORMAT, Serial};

/// FNV-1a of the bits (Fowler, Noll, Vo).
fn digest(floats: &[f32]) -> u64 {
    let bytes = floats.iter().flat_map(|x| x.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn forms_of_a_version_do_not_change() {
    let mut seen = Vec::new();
    for isa in isas() {
        let b = values(37 * 53, 1);
        let rhs = PackedB::new(isa, &Serial, 37, 53, Mat::dense(&b, 53));
        let mut digests = vec![digest(rhs.floats())];
        for (groups, reads) in [(1, Reads::Planes), (1, Reads::Blocks), (40, Reads::Depthwise)] {
            let shape = ConvShape { groups, ..ConvShape::d2(1, 40, 40, [8, 8], [3, 3]) };
            let w = values(shape.weights_len(), 2);
            digests.push(digest(BlockedWeights::new(isa, &Serial, &shape, reads, &w).floats()));
        }
        seen.push((isa.level(), digests));
    }
    for (level, digests) in seen {
        let want: [u64; 4] = match level {
            Level::Scalar => {
                [0xd5db48f67a63390d, 0x30f5da435c8b2f24, 0x7b3f54b5fa1ce14, 0x4ad099546b42bb05]
            }
            Level::Avx2 => {
                [0x2e309903c5152199, 0x6016eaf4b20a9850, 0x1631fb80e293f778, 0x9dc94a207cdb9a3d]
            }
            _ => [0xdd67ec7695d21d45, 0xa7d6a6c13c2610c4, 0x82139be801fbea28, 0x36cdc3ca9660b2ed],
        };
        assert_eq!(
            digests, want,
            "{level}: a packed form differs from that of version {PACKED_FORMAT}; raise PACKED_FORMAT"
        );
    }
}

#[test]
fn shared_floats_are_the_packed_ones_or_refused() {
    for isa in isas() {
        let b = values(5 * 7, 3);
        let own = PackedB::new(isa, &Serial, 5, 7, Mat::dense(&b, 7));
        let floats = own.floats().to_vec();
        let again = PackedB::shared(isa, 5, 7, SharedFloats::new(floats.clone()));
        assert_eq!(again.map(|p| p.floats().to_vec()), Some(floats.clone()));
        assert!(PackedB::shared(isa, 5, 700, SharedFloats::new(floats.clone())).is_none());

        let shape = ConvShape::d2(1, 3, 9, [8, 8], [3, 3]);
        let w = values(shape.weights_len(), 4);
        let own = BlockedWeights::new(isa, &Serial, &shape, Reads::Blocks, &w);
        let short = SharedFloats::new(own.floats()[1..].to_vec());
        assert!(BlockedWeights::shared(isa, &shape, Reads::Blocks, short).is_none());
        let whole = SharedFloats::new(own.floats().to_vec());
        assert!(BlockedWeights::shared(isa, &shape, Reads::Blocks, whole).is_some());
    }
}
