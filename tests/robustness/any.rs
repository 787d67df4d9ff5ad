//! Strategies for arguments of all sorts.

use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

pub const CPU: Device = Device::Cpu;

/// More elements than libtorch can allocate on any machine.
pub const HUGE: i64 = 1 << 40;

/// The memory layout of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Layout {
    Contiguous,
    Transposed,
    Narrowed,
    /// One number, with strides of 0.
    Expanded,
    /// As `Expanded`, with [`HUGE`] entries in this dimension: it takes no memory, but cannot be copied.
    HugeDimension(usize),
    /// A view of floating-point numbers that are stored with the other sign.
    Negated,
    /// libtorch's tensor of zeros without memory.
    WithoutMemory,
    /// An undefined tensor.
    Undefined,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Values {
    Zeros,
    /// Between 0 and 1; 0 or 1 for integers.
    Usual,
    /// NaN, infinities and very large numbers among usual ones; the limits of the range for integers.
    Extreme,
}

/// A description of a tensor, which proptest can print and shrink.
#[derive(Debug, Clone)]
pub struct AnyTensor {
    pub size: Vec<i64>,
    pub kind: Kind,
    pub layout: Layout,
    pub values: Values,
    pub gradient: bool,
}

impl AnyTensor {
    pub fn make(&self) -> Tensor {
        let is_float = matches!(self.kind, Kind::Half | Kind::BFloat16 | Kind::Float | Kind::Double);
        let numbers = |size: &[i64]| numbers(size, self.kind, self.values);
        let tensor = match self.layout {
            Layout::Undefined => return Tensor::new(),
            Layout::Contiguous => numbers(&self.size),
            Layout::Transposed => {
                let reversed: Vec<i64> = self.size.iter().rev().copied().collect();
                numbers(&reversed).permute((0..self.size.len() as i64).rev().collect::<Vec<_>>())
            }
            Layout::Narrowed if self.size.is_empty() => numbers(&self.size),
            Layout::Narrowed => {
                let mut longer = self.size.clone();
                longer[0] += 2;
                numbers(&longer).narrow(0, 1, self.size[0])
            }
            Layout::Negated if !is_float => numbers(&self.size),
            Layout::Negated => (-numbers(&self.size)).internal_neg_view(),
            Layout::WithoutMemory => Tensor::internal_efficientzerotensor(&self.size, (self.kind, CPU)),
            Layout::Expanded => numbers(&[]).expand(&self.size, false),
            Layout::HugeDimension(dimension) => {
                let mut size = self.size.clone();
                if let Some(size) = size.get_mut(dimension) {
                    *size = HUGE;
                }
                numbers(&[]).expand(&size, false)
            }
        };
        if self.gradient && is_float { tensor.detach().set_requires_grad(true) } else { tensor }
    }

    /// Whether size and values are usual.
    pub fn is_usual(&self) -> bool {
        self.is_small() && self.values != Values::Extreme
    }

    /// Whether it is defined and can be copied.
    pub fn is_small(&self) -> bool {
        let is_huge = matches!(self.layout, Layout::HugeDimension(dimension) if dimension < self.size.len()
            && self.size.iter().enumerate().all(|(other, size)| other == dimension || *size > 0));
        !is_huge && self.layout != Layout::Undefined
    }
}

fn numbers(size: &[i64], kind: Kind, values: Values) -> Tensor {
    const FLOATS: [f64; 8] = [0.5, f64::NAN, 1e38, f64::INFINITY, -1.0, f64::NEG_INFINITY, 1e-40, -1e38];
    const INTEGERS: [i64; 4] = [i64::MIN, 1, i64::MAX, -1];
    let count: i64 = size.iter().product();
    let is_float = !matches!(kind, Kind::Uint8 | Kind::Int8 | Kind::Int16 | Kind::Int | Kind::Int64 | Kind::Bool);
    let flat = match (values, is_float) {
        (Values::Zeros, _) => Tensor::zeros([count], (Kind::Float, CPU)),
        (Values::Usual, true) => Tensor::rand([count], (Kind::Float, CPU)),
        (Values::Usual, false) => Tensor::randint(2, [count], (Kind::Int64, CPU)),
        (Values::Extreme, true) => {
            Tensor::from_slice(&FLOATS.iter().copied().cycle().take(count as usize).collect::<Vec<_>>())
        }
        (Values::Extreme, false) => {
            Tensor::from_slice(&INTEGERS.iter().copied().cycle().take(count as usize).collect::<Vec<_>>())
        }
    };
    flat.to_kind(kind).view(size)
}

pub fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Float),
        1 => prop::sample::select(vec![
            Kind::Uint8, Kind::Int8, Kind::Int16, Kind::Int, Kind::Int64, Kind::Half, Kind::BFloat16, Kind::Double,
            Kind::ComplexFloat, Kind::Bool,
        ]),
    ]
}

/// Devices, most of which do not exist on a given machine.
pub fn devices() -> impl Strategy<Value = Device> {
    prop_oneof![
        4 => Just(CPU),
        1 => prop::sample::select(vec![Device::Cuda(0), Device::Cuda(99), Device::Mps, Device::Vulkan]),
    ]
}

pub fn sizes() -> impl Strategy<Value = i64> {
    prop::sample::select(vec![0_i64, 1, 2, 3, 4, 7, 16])
}

/// Tensors of any kind, layout and values, with sizes from `size`.
pub fn tensor_of(size: impl Strategy<Value = Vec<i64>> + 'static) -> BoxedStrategy<AnyTensor> {
    let layout = prop_oneof![
        4 => Just(Layout::Contiguous),
        1 => Just(Layout::Transposed),
        1 => Just(Layout::Narrowed),
        1 => Just(Layout::Expanded),
        1 => Just(Layout::Negated),
        1 => Just(Layout::WithoutMemory),
        1 => (0..5_usize).prop_map(Layout::HugeDimension),
        1 => Just(Layout::Undefined),
    ];
    let values = prop_oneof![3 => Just(Values::Usual), 1 => Just(Values::Zeros), 1 => Just(Values::Extreme)];
    let parts = (size, kinds(), layout, values, any::<bool>());
    parts.prop_map(|(size, kind, layout, values, gradient)| AnyTensor { size, kind, layout, values, gradient }).boxed()
}

/// Tensors of 0 to 5 dimensions.
pub fn tensors() -> BoxedStrategy<AnyTensor> {
    tensor_of(prop::collection::vec(sizes(), 0..=5))
}

/// Tensors, mostly of size `size`.
pub fn mostly(size: &[i64]) -> BoxedStrategy<AnyTensor> {
    prop_oneof![6 => tensor_of(Just(size.to_vec())), 1 => tensors()].boxed()
}

/// Small integers, limits of the range, and sizes beyond any memory; none that might just fit in memory.
pub fn integers() -> impl Strategy<Value = i64> {
    let extremes = vec![i64::MIN, i64::MIN + 1, -HUGE, -1, 0, 1, HUGE, HUGE + 1, i64::MAX - 1, i64::MAX];
    prop_oneof![3 => 0..9_i64, 1 => prop::sample::select(extremes)]
}

pub fn unsigned() -> impl Strategy<Value = u64> {
    prop_oneof![1 => 0..9_u64, 1 => any::<u64>(), 1 => prop::sample::select(vec![u64::MAX, u64::MAX - 1, 1 << 63])]
}

pub fn floats() -> impl Strategy<Value = f64> {
    let extremes = vec![
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        5e-324,
        -0.0,
        0.0,
        1.0,
        -1.0,
        1e6,
        1e-6,
        1e40,
        1e-40,
    ];
    prop_oneof![3 => 0.0..1.0_f64, 1 => prop::sample::select(extremes)]
}
