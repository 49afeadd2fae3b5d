//! Scenes and their random generation: numbers only, no pixels or words.
//!
//! A scene is a pure function of (seed, index). Lengths are fractions of the image's side and y
//! points down, so a scene can be drawn at any size.

use super::random::{Random, Stream};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Circle,
    Square,
    Triangle,
    Star,
    Cross,
    Heart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Red,
    Blue,
    Green,
    Yellow,
    Purple,
    Black,
    Pink,
    Cyan,
}

impl Shape {
    pub(super) const ALL: [Self; 6] =
        [Self::Circle, Self::Square, Self::Triangle, Self::Star, Self::Cross, Self::Heart];

    /// Shapes whose middle is wide enough to hold another object.
    const ROOMY: [Self; 4] = [Self::Circle, Self::Square, Self::Triangle, Self::Heart];

    pub(super) fn name(self) -> &'static str {
        ["circle", "square", "triangle", "star", "cross", "heart"][self as usize]
    }

    pub(super) fn plural(self) -> &'static str {
        ["circles", "squares", "triangles", "stars", "crosses", "hearts"][self as usize]
    }
}

impl Colour {
    /// No name begins with a vowel, so "a" is always the right article and every prompt template
    /// fits.
    pub(super) const ALL: [Self; 8] = [
        Self::Red,
        Self::Blue,
        Self::Green,
        Self::Yellow,
        Self::Purple,
        Self::Black,
        Self::Pink,
        Self::Cyan,
    ];

    pub(super) fn name(self) -> &'static str {
        ["red", "blue", "green", "yellow", "purple", "black", "pink", "cyan"][self as usize]
    }
}

/// A colour with a shape. The held-out set is made of such pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Composition {
    pub(super) colour: Colour,
    pub(super) shape: Shape,
}

impl Composition {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Colour::ALL
            .into_iter()
            .flat_map(|colour| Shape::ALL.into_iter().map(move |shape| Self { colour, shape }))
    }

    /// Returns the composition's label, such as "red circle".
    pub(super) fn label(self) -> String {
        format!("{} {}", self.colour.name(), self.shape.name())
    }

    /// Returns whether training must not see the composition: colour number j with shape number j
    /// mod 6.
    ///
    /// Each of the 8 colours loses one shape of 6, and each shape loses one or two colours of 8.
    /// Training still sees every colour and every shape.
    pub(super) fn held_out(self) -> bool {
        self.shape as usize == self.colour as usize % Shape::ALL.len()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

impl Size {
    pub(super) fn name(self) -> &'static str {
        ["small", "large"][self as usize]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Left,
    Right,
    Top,
    Bottom,
    Centre,
}

impl Place {
    const ALL: [Self; 5] = [Self::Left, Self::Right, Self::Top, Self::Bottom, Self::Centre];

    pub(super) fn name(self) -> &'static str {
        ["left", "right", "top", "bottom", "centre"][self as usize]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    LeftOf,
    RightOf,
    Above,
    Below,
    Inside,
}

impl Relation {
    const ALL: [Self; 5] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below, Self::Inside];

    pub(super) fn name(self) -> &'static str {
        ["left of", "right of", "above", "below", "inside"][self as usize]
    }
}

/// The facts of a scene beside its main composition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// One object.
    Single { size: Size, place: Place },
    /// Two or three equal objects.
    Count { number: u8, size: Size },
    /// The main object and its position relative to another one.
    Relation { relation: Relation, other: Composition },
}

/// An object to draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Object {
    pub(super) composition: Composition,
    pub(super) x: f32,
    pub(super) y: f32,
    /// Half of its extent.
    pub(super) radius: f32,
    /// Degrees, clockwise.
    pub(super) angle: f32,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scene {
    pub(super) main: Composition,
    pub(super) content: Content,
    /// In the order of drawing.
    pub(super) objects: Vec<Object>,
}

impl Scene {
    /// Returns whether any object has a held-out composition. Training must not see such a scene.
    pub(super) fn held_out(&self) -> bool {
        self.objects.iter().any(|object| object.composition.held_out())
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.content {
            Content::Single { .. } => "single",
            Content::Count { .. } => "count",
            Content::Relation { .. } => "relation",
        }
    }
}

/// Returns the scene with this number.
pub(super) fn scene(seed: u64, index: u64) -> Scene {
    let mut random = Random::new(seed, Stream::Scene, index);
    let main = deal(seed, index);
    let lot = random.between(0.0, 1.0);
    if lot < 0.45 {
        single(main, &mut random)
    } else if lot < 0.65 {
        count(main, &mut random)
    } else {
        let relation = random.pick(&Relation::ALL);
        let other = loop {
            let shapes: &[Shape] =
                if relation == Relation::Inside { &Shape::ROOMY } else { &Shape::ALL };
            let other =
                Composition { colour: random.pick(&Colour::ALL), shape: random.pick(shapes) };
            if other.colour != main.colour {
                break other;
            }
        };
        related(main, relation, other, &mut random)
    }
}

/// Returns a red circle left of a blue square, so that the README's question has an answer. Both
/// are held out.
pub(super) fn example_scene(seed: u64, index: u64) -> Scene {
    let mut random = Random::new(seed, Stream::Scene, index);
    let [main, other] = [(Colour::Red, Shape::Circle), (Colour::Blue, Shape::Square)]
        .map(|(colour, shape)| Composition { colour, shape });
    related(main, Relation::LeftOf, other, &mut random)
}

/// Deals compositions like cards, so that every block of 48 scenes shows each of them once.
fn deal(seed: u64, index: u64) -> Composition {
    let mut deck: Vec<Composition> = Composition::all().collect();
    Random::new(seed, Stream::Deck, index / deck.len() as u64).shuffle(&mut deck);
    deck[(index % deck.len() as u64) as usize]
}

fn single(main: Composition, random: &mut Random) -> Scene {
    let size = random.pick(&[Size::Small, Size::Large]);
    let place = random.pick(&Place::ALL);
    let radius = match size {
        Size::Small => random.between(0.13, 0.16),
        Size::Large => random.between(0.23, 0.27),
    };
    let near = radius + random.between(0.03, 0.07);
    let far = 1.0 - near;
    let [across, along] = [(); 2].map(|()| 0.5 + random.between(-0.06, 0.06));
    let (x, y) = match place {
        Place::Left => (near, across),
        Place::Right => (far, across),
        Place::Top => (across, near),
        Place::Bottom => (across, far),
        Place::Centre => (across, along),
    };
    let objects = vec![object(main, x, y, radius, random)];
    Scene { main, content: Content::Single { size, place }, objects }
}

/// Places the objects on a ring around the middle, too far apart to touch.
fn count(main: Composition, random: &mut Random) -> Scene {
    let number = random.pick(&[2u8, 3]);
    let size = random.pick(&[Size::Small, Size::Large]);
    let radius = match size {
        Size::Small => random.between(0.125, 0.14),
        Size::Large => random.between(0.185, 0.205),
    };
    let ring = random.between(0.26, 0.275);
    let turn = random.between(0.0, std::f32::consts::TAU);
    let objects = (0..number)
        .map(|at| {
            let (sin, cos) =
                (turn + std::f32::consts::TAU * f32::from(at) / f32::from(number)).sin_cos();
            object(main, 0.5 + ring * cos, 0.5 + ring * sin, radius, random)
        })
        .collect();
    Scene { main, content: Content::Count { number, size }, objects }
}

fn related(
    main: Composition,
    relation: Relation,
    other: Composition,
    random: &mut Random,
) -> Scene {
    let [apart_main, apart_other] = [(); 2].map(|()| random.between(0.21, 0.26));
    let [across_main, across_other] = [(); 2].map(|()| 0.5 + random.between(-0.1, 0.1));
    let [radius_main, radius_other] = [(); 2].map(|()| random.between(0.15, 0.18));
    // From the middle to the main object.
    let (dx, dy) = match relation {
        Relation::LeftOf => (-1.0, 0.0),
        Relation::RightOf => (1.0, 0.0),
        Relation::Above => (0.0, -1.0),
        Relation::Below => (0.0, 1.0),
        Relation::Inside => {
            let (x, y) = (0.5 + random.between(-0.06, 0.06), 0.5 + random.between(-0.06, 0.06));
            let outer = object(other, x, y, random.between(0.38, 0.42), random);
            // The middle of a triangle or heart is not the middle of its extent.
            let lower = if other.shape == Shape::Triangle { 0.2 * outer.radius } else { 0.0 };
            let inner = object(main, x, y + lower, random.between(0.13, 0.145), random);
            return Scene {
                main,
                content: Content::Relation { relation, other },
                objects: vec![outer, inner],
            };
        }
    };
    let at = |sign: f32, apart: f32, across: f32| {
        if dx == 0.0 {
            (across, 0.5 + sign * dy * apart)
        } else {
            (0.5 + sign * dx * apart, across)
        }
    };
    let (x, y) = at(1.0, apart_main, across_main);
    let (other_x, other_y) = at(-1.0, apart_other, across_other);
    let objects = vec![
        object(main, x, y, radius_main, random),
        object(other, other_x, other_y, radius_other, random),
    ];
    Scene { main, content: Content::Relation { relation, other }, objects }
}

fn object(composition: Composition, x: f32, y: f32, radius: f32, random: &mut Random) -> Object {
    Object { composition, x, y, radius, angle: random.between(-12.0, 12.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many() -> impl Iterator<Item = Scene> {
        (0..3000).map(|index| scene(5, index))
    }

    #[test]
    fn held_out_compositions_are_eight_and_leave_each_colour_and_shape_to_learn() {
        let held_out: Vec<Composition> =
            Composition::all().filter(|composition| composition.held_out()).collect();
        assert_eq!(held_out.len(), 8);
        for colour in Colour::ALL {
            assert_eq!(
                held_out.iter().filter(|composition| composition.colour == colour).count(),
                1
            );
        }
        for shape in Shape::ALL {
            assert!((1..=2).contains(
                &held_out.iter().filter(|composition| composition.shape == shape).count()
            ));
        }
    }

    #[test]
    fn objects_lie_within_the_picture_and_are_a_quarter_of_it_at_least() {
        for scene in many() {
            for object in &scene.objects {
                assert!(2.0 * object.radius >= 0.25, "{scene:?}");
                for middle in [object.x, object.y] {
                    assert!(
                        middle - object.radius > 0.0 && middle + object.radius < 1.0,
                        "{scene:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_a_scene_says_of_itself_is_true_of_where_things_are() {
        for scene in many() {
            let first = scene.objects[0];
            match scene.content {
                Content::Single { size, place } => {
                    assert_eq!(scene.objects.len(), 1);
                    assert_eq!(size == Size::Large, first.radius > 0.2);
                    let (x, y) = (first.x - 0.5, first.y - 0.5);
                    let nearest = if x.abs().max(y.abs()) < 0.1 {
                        Place::Centre
                    } else if x.abs() > y.abs() {
                        if x < 0.0 { Place::Left } else { Place::Right }
                    } else if y < 0.0 {
                        Place::Top
                    } else {
                        Place::Bottom
                    };
                    assert_eq!(place, nearest, "{scene:?}");
                }
                Content::Count { number, size } => {
                    assert_eq!(scene.objects.len(), usize::from(number));
                    for (at, a) in scene.objects.iter().enumerate() {
                        assert_eq!(size == Size::Large, a.radius > 0.17);
                        for b in &scene.objects[at + 1..] {
                            assert!(
                                (a.x - b.x).hypot(a.y - b.y) > a.radius + b.radius,
                                "{scene:?}"
                            );
                        }
                    }
                }
                Content::Relation { relation, other } => {
                    assert_ne!(other.colour, scene.main.colour);
                    let of = |composition| {
                        *scene
                            .objects
                            .iter()
                            .find(|object| object.composition == composition)
                            .unwrap()
                    };
                    let (a, b) = (of(scene.main), of(other));
                    let apart = a.radius + b.radius;
                    assert!(
                        match relation {
                            Relation::LeftOf => b.x - a.x > apart,
                            Relation::RightOf => a.x - b.x > apart,
                            Relation::Above => b.y - a.y > apart,
                            Relation::Below => a.y - b.y > apart,
                            Relation::Inside =>
                                (a.x - b.x).hypot(a.y - b.y) + a.radius < 0.6 * b.radius,
                        },
                        "{scene:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_composition_is_dealt_equally_often() {
        let count =
            |composition| many().take(480).filter(|scene| scene.main == composition).count();
        assert!(Composition::all().all(|composition| count(composition) == 10));
    }
}
