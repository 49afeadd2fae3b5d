//! Draws scenes: soft backgrounds and anti-aliased shapes in slightly varied shades. Only pixels,
//! no files or words.

use tiny_skia::{Color, FillRule, Paint, Path, PathBuilder, Pixmap, Stroke, Transform};

use super::random::Random;
use super::scene::{Colour, Object, Scene, Shape};

/// Draws the scene as RGBA, `side` × `side`. Returns `None` if `side` is 0.
///
/// Alpha is 255 everywhere. With `transparent`, only the objects are drawn.
pub(super) fn draw(
    scene: &Scene,
    side: u32,
    transparent: bool,
    random: &mut Random,
) -> Option<Vec<u8>> {
    let mut picture = Pixmap::new(side, side)?;
    if !transparent {
        background(&mut picture, random);
    }
    for object in &scene.objects {
        paint_object(&mut picture, object, random);
    }
    if !transparent {
        return Some(picture.take());
    }
    let straight = picture.pixels().iter().flat_map(|pixel| {
        let pixel = pixel.demultiply();
        [pixel.red(), pixel.green(), pixel.blue(), pixel.alpha()]
    });
    Some(straight.collect())
}

fn paint_object(picture: &mut Pixmap, object: &Object, random: &mut Random) {
    let side = picture.width() as f32;
    let shade = random.between(-12.0, 12.0);
    let [red, green, blue] = rgb(object.composition.colour).map(|channel| {
        (f32::from(channel) + shade + random.between(-8.0, 8.0)).clamp(0.0, 255.0) / 255.0
    });
    let outlined = random.chance(0.4);
    // A path of finite points always has bounds. A shape without any would just not be drawn.
    let Some(path) = outline(object.composition.shape) else { return };
    let place = Transform::from_scale(object.radius * side, object.radius * side)
        .post_rotate(object.angle)
        .post_translate(object.x * side, object.y * side);
    let paint = |darker: f32| {
        let mut paint = Paint { anti_alias: true, ..Paint::default() };
        paint.set_color(
            Color::from_rgba(red * darker, green * darker, blue * darker, 1.0)
                .unwrap_or(Color::BLACK),
        );
        paint
    };
    picture.fill_path(&path, &paint(1.0), FillRule::Winding, place, None);
    if outlined {
        let stroke = Stroke { width: 0.013 / object.radius, ..Stroke::default() };
        picture.stroke_path(&path, &paint(0.7), &stroke, place, None);
    }
}

fn rgb(colour: Colour) -> [u8; 3] {
    match colour {
        Colour::Red => [222, 36, 36],
        Colour::Blue => [40, 84, 224],
        Colour::Green => [36, 148, 60],
        Colour::Yellow => [246, 204, 24],
        Colour::Purple => [140, 52, 180],
        Colour::Black => [34, 34, 38],
        Colour::Pink => [248, 128, 186],
        Colour::Cyan => [44, 200, 218],
    }
}

/// Returns the shape within a circle of radius 1 around the origin. The areas look about equal.
fn outline(shape: Shape) -> Option<Path> {
    let mut path = PathBuilder::new();
    match shape {
        Shape::Circle => path.push_circle(0.0, 0.0, 0.92),
        Shape::Square => polygon(&mut path, &[(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)]),
        Shape::Triangle => polygon(&mut path, &[(0.0, -0.92), (0.9, 0.7), (-0.9, 0.7)]),
        Shape::Star => {
            let points: Vec<(f32, f32)> = (0..10)
                .map(|corner| {
                    let (sin, cos) = (std::f32::consts::PI * corner as f32 / 5.0).sin_cos();
                    let reach = if corner % 2 == 0 { 1.0 } else { 0.42 };
                    (reach * sin, -reach * cos)
                })
                .collect();
            polygon(&mut path, &points);
        }
        Shape::Cross => {
            let (long, wide) = (0.92, 0.3);
            let corners = [
                (-wide, -long),
                (wide, -long),
                (wide, -wide),
                (long, -wide),
                (long, wide),
                (wide, wide),
                (wide, long),
                (-wide, long),
                (-wide, wide),
                (-long, wide),
                (-long, -wide),
                (-wide, -wide),
            ];
            polygon(&mut path, &corners);
        }
        Shape::Heart => {
            path.move_to(0.0, 0.88);
            path.cubic_to(-0.3, 0.55, -0.94, 0.2, -0.94, -0.3);
            path.cubic_to(-0.94, -0.62, -0.7, -0.8, -0.48, -0.8);
            path.cubic_to(-0.25, -0.8, -0.08, -0.66, 0.0, -0.44);
            path.cubic_to(0.08, -0.66, 0.25, -0.8, 0.48, -0.8);
            path.cubic_to(0.7, -0.8, 0.94, -0.62, 0.94, -0.3);
            path.cubic_to(0.94, 0.2, 0.3, 0.55, 0.0, 0.88);
            path.close();
        }
    }
    path.finish()
}

fn polygon(path: &mut PathBuilder, corners: &[(f32, f32)]) {
    for (at, &(x, y)) in corners.iter().enumerate() {
        if at == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    path.close();
}

/// Paints a light tint, flat or as a gradient, with a little noise.
fn background(picture: &mut Pixmap, random: &mut Random) {
    let hue = random.between(0.0, 6.0);
    let [from, to] = [0.0, random.between(-1.0, 1.0)].map(|turn| {
        let (saturation, light) = (random.between(0.1, 0.5), random.between(0.84, 0.97));
        tint(hue + turn, saturation, light)
    });
    let kind = random.below(3);
    let (sin, cos) = random.between(0.0, std::f32::consts::TAU).sin_cos();
    let (middle_x, middle_y) = (random.between(0.2, 0.8), random.between(0.2, 0.8));
    let noise = random.pick(&[0.0, 3.0, 6.0, 10.0]);

    let side = picture.width() as usize;
    let (step, mut at) = (1.0 / side as f32, 0);
    let bytes = picture.data_mut();
    for row in 0..side {
        let y = row as f32 * step;
        for column in 0..side {
            let x = column as f32 * step;
            let share = match kind {
                0 => 0.0,
                1 => 0.5 + (x - 0.5) * cos + (y - 0.5) * sin,
                _ => (x - middle_x).hypot(y - middle_y),
            };
            let share = share.clamp(0.0, 1.0);
            let grain = if noise > 0.0 { random.between(-noise, noise) } else { 0.0 };
            for channel in 0..3 {
                // A cast to u8 saturates at 0 and 255.
                bytes[at] =
                    (255.0 * (from[channel] + (to[channel] - from[channel]) * share) + grain) as u8;
                at += 1;
            }
            bytes[at] = 255;
            at += 1;
        }
    }
}

/// Converts HSL, with the hue in sixths of a turn, to RGB in 0..=1.
fn tint(hue: f32, saturation: f32, light: f32) -> [f32; 3] {
    let chroma = (1.0 - (2.0 * light - 1.0).abs()) * saturation;
    [0.0, 4.0, 2.0].map(|offset| {
        let distance = ((hue + offset).rem_euclid(6.0) - 3.0).abs() - 1.0;
        light + chroma * (distance.clamp(0.0, 1.0) - 0.5)
    })
}

#[cfg(test)]
mod tests {
    use super::super::random::Stream;
    use super::super::scene::scene;
    use super::*;

    #[test]
    fn every_object_shows_its_own_colour_and_no_other_object_touches_the_edge() {
        for index in 0..200 {
            let scene = scene(3, index);
            let side = 96;
            let pixels =
                draw(&scene, side, false, &mut Random::new(3, Stream::Look, index)).unwrap();
            let at = |x: f32, y: f32| {
                let place =
                    4 * ((y * side as f32) as usize * side as usize + (x * side as f32) as usize);
                [pixels[place], pixels[place + 1], pixels[place + 2]]
            };
            // The last object lies on top, and every shape covers its own centre.
            let top = scene.objects.last().unwrap();
            let nearest = |pixel: [u8; 3]| {
                let distance = |colour: &Colour| {
                    rgb(*colour)
                        .iter()
                        .zip(pixel)
                        .map(|(a, b)| (i32::from(*a) - i32::from(b)).pow(2))
                        .sum::<i32>()
                };
                Colour::ALL.into_iter().min_by_key(distance).unwrap()
            };
            assert_eq!(nearest(at(top.x, top.y)), top.composition.colour, "{scene:?}");
            assert!(
                at(0.001, 0.001).iter().all(|channel| *channel > 160),
                "the corner is background: {scene:?}"
            );
        }
    }

    #[test]
    fn transparent_pictures_hold_the_objects_alone() {
        let scene = scene(3, 1);
        let pixels = draw(&scene, 64, true, &mut Random::new(3, Stream::Look, 1)).unwrap();
        let opaque = pixels.chunks_exact(4).filter(|pixel| pixel[3] == 255).count();
        assert_eq!(pixels[3], 0);
        assert!((100..2500).contains(&opaque), "{opaque}");
    }

    #[test]
    fn hues_are_where_they_belong() {
        let near = |a: [f32; 3], b: [f32; 3]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(near(tint(0.0, 1.0, 0.5), [1.0, 0.0, 0.0]));
        assert!(near(tint(2.0, 1.0, 0.5), [0.0, 1.0, 0.0]));
        assert!(near(tint(4.0, 1.0, 0.5), [0.0, 0.0, 1.0]));
        assert!(near(tint(1.3, 0.0, 0.7), [0.7, 0.7, 0.7]));
    }
}
