package poster

import "math"

// picture draws one of the pictures for the genre. Sizes are fractions of the canvas, so that posters and banners share
// the code.
func (c *canvas) picture(genre string) {
	pictures := map[string][]func(){
		"Action": {c.burst, c.city}, "Adventure": {c.mountains, c.sea}, "Black Comedy": {c.chequers},
		"Comedy": {c.confetti, c.balloons}, "Concert/Performance": {c.spotlights}, "Documentary": {c.lens},
		"Drama": {c.window, c.road, c.rain}, "Horror": {c.moon, c.door}, "Musical": {c.bars}, "Romantic Comedy": {c.couple},
		"Thriller/Suspense": {c.rings, c.blinds, c.city}, "Western": {c.desert},
	}[genre]
	if pictures == nil {
		pictures = []func(){c.reel, c.curtain}
	}
	pictures[c.random.IntN(len(pictures))]()
}

// unit is a length that is the same in both directions, so that circles are round on any canvas.
func (c *canvas) unit() float64 { return min(c.w/200, c.h/210) }

// burst draws rays of light around a circle.
func (c *canvas) burst() {
	x, y := c.w*c.between(0.2, 0.8), c.h*c.between(0.42, 0.6)
	far := c.w + c.h
	turn := c.between(0, 1)
	for i := range 12 {
		a, b := (float64(i)+turn)*math.Pi/6, (float64(i)+turn+0.5)*math.Pi/6
		c.shape(c.mid, 0.75, x, y, x+far*math.Cos(a), y+far*math.Sin(a), x+far*math.Cos(b), y+far*math.Sin(b))
	}
	c.circle(x, y, 40*c.unit(), c.accent, 0.95)
	c.circle(x, y, 24*c.unit(), c.paper, 0.9)
	slant := c.w * c.between(0.1, 0.3)
	c.shape(c.deep, 0.9, 0, c.h*0.78, c.w, c.h*0.78-slant*0.6, c.w, c.h, 0, c.h)
}

// mountains draws three lines of mountains in front of a sun.
func (c *canvas) mountains() {
	c.circle(c.w*c.between(0.25, 0.75), c.h*0.34, 34*c.unit(), c.accent, 0.95)
	for i, fill := range []string{c.mid, c.sky, c.deep} {
		base := c.h * (0.44 + 0.12*float64(i))
		points := []float64{0, c.h}
		for x := 0.0; x <= 1.001; x += 0.125 {
			points = append(points, c.w*x, base+c.h*c.between(-0.13, 0.09))
		}
		c.shape(fill, 0.95, append(points, c.w, c.h)...)
	}
}

// chequers draws a chequered floor and a face with a hat on it.
func (c *canvas) chequers() {
	const n = 8
	size := c.w / n
	for row := 0; float64(row)*size < c.h; row++ {
		for col := range n {
			if (row+col)%2 == 0 {
				c.rect(float64(col)*size, float64(row)*size, size+1, size+1, c.deep, 0.55)
			}
		}
	}
	x := c.w * c.between(0.35, 0.65)
	c.circle(x, c.h*0.4, 52*c.unit(), c.accent, 1)
	c.ring(x, c.h*0.37, 26*c.unit(), 6*c.unit(), c.deep, 1)
	c.rect(x-60*c.unit(), c.h*0.37-34*c.unit(), 120*c.unit(), 34*c.unit(), c.accent, 0)
	c.circle(x-18*c.unit(), c.h*0.33, 5*c.unit(), c.deep, 1)
	c.circle(x+18*c.unit(), c.h*0.33, 5*c.unit(), c.deep, 1)
}

// confetti draws circles, rings and triangles at random places.
func (c *canvas) confetti() {
	fills := []string{c.accent, c.mid, c.paper, c.deep}
	for i := range int(26 * c.w / c.unit() / 200) {
		x, y, r := c.between(0, c.w), c.between(0, c.h*0.75), c.between(5, 17)*c.unit()
		fill := fills[i%len(fills)]
		switch i % 3 {
		case 0:
			c.circle(x, y, r, fill, 0.9)
		case 1:
			c.ring(x, y, r, 5*c.unit(), fill, 0.9)
		default:
			c.shape(fill, 0.9, x, y-r, x+r, y+r*0.8, x-r, y+r*0.8)
		}
	}
}

// spotlights draws three beams of light over the heads of an audience.
func (c *canvas) spotlights() {
	for i, at := range []float64{0.18, 0.5, 0.82} {
		top, foot := c.w*at, c.w*c.between(0.25, 0.75)
		c.shape([]string{c.accent, c.paper, c.mid}[i], 0.4, top-4, 0, top+4, 0, foot+c.w*0.16, c.h*0.72, foot-c.w*0.16,
			c.h*0.72)
	}
	for x := 0.0; x < c.w; x += 20 * c.unit() {
		c.circle(x+c.between(0, 8), c.h*c.between(0.68, 0.74), 13*c.unit(), c.deep, 1)
	}
	c.rect(0, c.h*0.72, c.w, c.h*0.28, c.deep, 1)
}

// lens draws a camera lens as rings with a reflection.
func (c *canvas) lens() {
	x, y := c.w*c.between(0.4, 0.6), c.h*0.36
	for i, fill := range []string{c.deep, c.mid, c.sky, c.accent, c.deep} {
		c.circle(x, y, (78-16*float64(i))*c.unit(), fill, 1)
	}
	c.circle(x-10*c.unit(), y-12*c.unit(), 6*c.unit(), c.paper, 0.9)
	for y := c.h * 0.06; y < c.h*0.7; y += 12 * c.unit() {
		c.rect(0, y, c.w, 1, c.paper, 0.12)
	}
}

// window draws a lit window with a person behind it.
func (c *canvas) window() {
	c.rect(0, 0, c.w, c.h, c.deep, 0.5)
	u := c.unit()
	x, y := c.w*c.between(0.25, 0.55), c.h*c.between(0.12, 0.2)
	wide, high := 62*u, 92*u
	c.shape(c.accent, 0.22, x, y+high, x+wide, y+high, x+wide*1.9, c.h, x-wide*0.3, c.h)
	c.rect(x, y, wide, high, c.accent, 1)
	c.rect(x+wide/2-2*u, y, 4*u, high, c.sky, 1)
	c.rect(x, y+high*0.45, wide, 4*u, c.sky, 1)
	person := x + wide*c.between(0.25, 0.75)
	c.circle(person, y+high-30*u, 9*u, c.deep, 1)
	c.shape(c.deep, 1, person-15*u, y+high, person-10*u, y+high-20*u, person+10*u, y+high-20*u, person+15*u, y+high)
}

// moon draws a moon behind bare trees.
func (c *canvas) moon() {
	c.rect(0, 0, c.w, c.h, c.deep, 0.55)
	x := c.w * c.between(0.3, 0.7)
	c.circle(x, c.h*0.3, 50*c.unit(), c.accent, 0.25)
	c.circle(x, c.h*0.3, 38*c.unit(), c.accent, 0.95)
	c.shape(c.deep, 1, 0, c.h*0.6, c.w*0.3, c.h*0.52, c.w*0.6, c.h*0.6, c.w, c.h*0.54, c.w, c.h, 0, c.h)
	for range int(7 * c.w / c.unit() / 200) {
		x, slant := c.between(0, c.w), c.between(-10, 10)*c.unit()
		top := c.h * c.between(0.12, 0.38)
		c.shape(c.deep, 1, x-5*c.unit(), c.h*0.62, x+slant, top, x+5*c.unit(), c.h*0.62)
		for i := range 3 {
			y := top + (c.h*0.55-top)*(0.25+0.22*float64(i))
			side := []float64{1, -1, 1}[i] * 16 * c.unit()
			c.shape(c.deep, 1, x+slant*0.5, y, x+slant*0.5+side, y-12*c.unit(), x+slant*0.5, y+4*c.unit())
		}
	}
}

// bars draws the bars of an equalizer with notes above them.
func (c *canvas) bars() {
	fills := []string{c.accent, c.mid, c.paper}
	step := 22 * c.unit()
	for i := 0; float64(i)*step < c.w; i++ {
		high := c.h * c.between(0.12, 0.5)
		c.rect(float64(i)*step+4, c.h*0.7-high, step-8, high, fills[i%3], 0.92)
		c.circle(float64(i)*step+step/2, c.h*0.7-high-step*0.6, step*0.28, fills[i%3], 0.92)
	}
}

// couple draws two overlapping circles with a heart.
func (c *canvas) couple() {
	x, y, r := c.w/2, c.h*c.between(0.34, 0.42), 52*c.unit()
	gap := c.between(26, 38) * c.unit()
	c.circle(x-gap, y, r, c.accent, 0.85)
	c.circle(x+gap, y, r, c.paper, 0.75)
	s := 11 * c.unit()
	c.circle(x-s*0.55, y-s*0.3, s*0.7, c.deep, 1)
	c.circle(x+s*0.55, y-s*0.3, s*0.7, c.deep, 1)
	c.shape(c.deep, 1, x-s*1.2, y-s*0.05, x+s*1.2, y-s*0.05, x, y+s*1.35)
}

// rings draws a spiral of rings with a falling person in it.
func (c *canvas) rings() {
	x, y := c.w*c.between(0.35, 0.65), c.h*c.between(0.32, 0.42)
	for i := range 14 {
		r := float64(10+i*14) * c.unit()
		drift := float64(i) * c.between(-1.5, 1.5) * c.unit()
		c.ring(x+drift, y+drift, r, 6*c.unit(), []string{c.accent, c.mid}[i%2], 0.9-0.045*float64(i))
	}
	u := c.unit()
	c.circle(x, y-6*u, 6*u, c.paper, 1)
	c.shape(c.paper, 1, x-6*u, y, x+6*u, y, x+12*u, y+22*u, x+3*u, y+16*u, x-9*u, y+26*u)
}

// desert draws a sun, two table mountains and a cactus.
func (c *canvas) desert() {
	u := c.unit()
	x := c.w * c.between(0.3, 0.7)
	c.circle(x, c.h*0.42, 58*u, c.accent, 1)
	for i := range 4 {
		c.rect(0, c.h*0.42+float64(14+i*11)*u, c.w, float64(2+i)*u, c.sky, 1)
	}
	for _, at := range []float64{c.between(-0.1, 0.1), c.between(0.55, 0.75)} {
		left, wide := c.w*at, c.w*c.between(0.25, 0.4)
		c.shape(c.mid, 1, left, c.h*0.66, left+wide*0.1, c.h*0.45, left+wide*0.8, c.h*0.45, left+wide, c.h*0.66)
	}
	c.rect(0, c.h*0.63, c.w, c.h*0.37, c.deep, 1)
	cactus := c.w * c.between(0.3, 0.55)
	c.rect(cactus, c.h*0.63-46*u, 8*u, 48*u, c.deep, 1)
	c.rect(cactus-16*u, c.h*0.63-34*u, 6*u, 18*u, c.deep, 1)
	c.rect(cactus-16*u, c.h*0.63-20*u, 18*u, 6*u, c.deep, 1)
	c.rect(cactus+8*u, c.h*0.63-28*u, 14*u, 6*u, c.deep, 1)
	c.rect(cactus+18*u, c.h*0.63-40*u, 6*u, 16*u, c.deep, 1)
}

// reel draws a film reel and the perforation of a film.
func (c *canvas) reel() {
	u := c.unit()
	x, y := c.w*c.between(0.4, 0.6), c.h*0.36
	c.circle(x, y, 66*u, c.mid, 1)
	c.ring(x, y, 66*u, 4*u, c.accent, 1)
	turn := c.between(0, 1)
	for i := range 5 {
		a := (float64(i) + turn) * 2 * math.Pi / 5
		c.circle(x+38*u*math.Cos(a), y+38*u*math.Sin(a), 16*u, c.deep, 1)
	}
	c.circle(x, y, 8*u, c.accent, 1)
	for px := 4 * u; px < c.w; px += 18 * u {
		c.rect(px, 6*u, 9*u, 7*u, c.paper, 0.35)
	}
}

// city draws two rows of houses with lit windows.
func (c *canvas) city() {
	u := c.unit()
	c.circle(c.w*c.between(0.2, 0.8), c.h*0.2, 22*u, c.accent, 0.9)
	for depth, fill := range []string{c.mid, c.deep} {
		for x := -10 * u; x < c.w; {
			wide, high := c.between(22, 44)*u, c.h*c.between(0.2, 0.42)*(1-0.25*float64(depth))
			c.rect(x, c.h*0.7-high, wide, c.h, fill, 1)
			for range 3 * depth {
				c.rect(x+c.between(0.1, 0.8)*wide, c.h*0.7-high*c.between(0.3, 0.9), 4*u, 6*u, c.accent, 0.8)
			}
			x += wide + c.between(0, 8)*u
		}
	}
}

// sea draws a sailing boat on waves.
func (c *canvas) sea() {
	u := c.unit()
	x := c.w * c.between(0.25, 0.75)
	c.circle(c.w*c.between(0.2, 0.8), c.h*0.26, 30*u, c.accent, 0.9)
	c.shape(c.paper, 1, x, c.h*0.46-52*u, x, c.h*0.46-8*u, x+28*u, c.h*0.46-8*u)
	c.shape(c.paper, 0.7, x-3*u, c.h*0.46-44*u, x-3*u, c.h*0.46-8*u, x-20*u, c.h*0.46-8*u)
	c.shape(c.deep, 1, x-26*u, c.h*0.46-5*u, x+32*u, c.h*0.46-5*u, x+22*u, c.h*0.46+9*u, x-18*u, c.h*0.46+9*u)
	for i, fill := range []string{c.mid, c.sky, c.deep} {
		y := c.h * (0.48 + 0.09*float64(i))
		points := []float64{0, c.h}
		for px := 0.0; px <= c.w+20*u; px += 20 * u {
			points = append(points, px, y+5*u*math.Sin(px/(13*u)+float64(i)*2))
		}
		c.shape(fill, 0.95, append(points, c.w, c.h)...)
	}
}

// balloons draws balloons on strings.
func (c *canvas) balloons() {
	u := c.unit()
	fills := []string{c.accent, c.paper, c.mid}
	for i := range int(6 * c.w / u / 200) {
		x, y := c.between(0.1, 0.9)*c.w, c.h*c.between(0.1, 0.5)
		c.rect(x-u, y, 2*u, c.h*0.7-y, c.paper, 0.35)
		c.circle(x, y, 24*u, fills[i%3], 0.95)
		c.shape(fills[i%3], 1, x-5*u, y+29*u, x+5*u, y+29*u, x, y+21*u)
		c.circle(x-8*u, y-9*u, 5*u, c.paper, 0.6)
	}
}

// road draws a road to the horizon and a tree.
func (c *canvas) road() {
	u := c.unit()
	x := c.w * c.between(0.35, 0.65)
	c.circle(x, c.h*0.4, 36*u, c.accent, 0.9)
	c.rect(0, c.h*0.42, c.w, c.h*0.58, c.mid, 1)
	c.shape(c.deep, 1, x-4*u, c.h*0.42, x+4*u, c.h*0.42, x+95*u, c.h, x-95*u, c.h)
	for i := range 4 {
		y, wide := c.h*(0.46+0.07*float64(i)), (1+1.4*float64(i))*u
		c.shape(c.paper, 0.8, x-wide, y, x+wide, y, x+wide*1.5, y+c.h*0.03, x-wide*1.5, y+c.h*0.03)
	}
	tree := c.w * []float64{0.14, 0.86}[c.random.IntN(2)]
	c.rect(tree-2*u, c.h*0.34, 4*u, c.h*0.12, c.deep, 1)
	c.circle(tree, c.h*0.32, 17*u, c.deep, 1)
}

// rain draws rain and a person under an umbrella.
func (c *canvas) rain() {
	u := c.unit()
	for range int(42 * c.w / u / 200) {
		x, y := c.between(0, 1.1)*c.w, c.between(0, 0.7)*c.h
		c.shape(c.mid, 0.9, x, y, x+1.5*u, y, x-5*u, y+19*u, x-6.5*u, y+19*u)
	}
	x, y := c.w*c.between(0.35, 0.65), c.h*0.38
	c.circle(x, y, 40*u, c.accent, 1)
	c.rect(x-42*u, y, 84*u, 42*u, c.sky, 1)
	c.rect(x-1.5*u, y-44*u, 3*u, 84*u, c.deep, 1)
	c.circle(x+9*u, y+18*u, 9*u, c.deep, 1)
	c.shape(c.deep, 1, x, y+28*u, x+18*u, y+28*u, x+25*u, c.h*0.72, x-7*u, c.h*0.72)
}

// door draws an open door with light and a shadow in it.
func (c *canvas) door() {
	u := c.unit()
	c.rect(0, 0, c.w, c.h, c.deep, 0.7)
	x := c.w * c.between(0.38, 0.62)
	c.shape(c.accent, 0.35, x-30*u, c.h*0.62, x+30*u, c.h*0.62, x+85*u, c.h, x-85*u, c.h)
	c.rect(x-30*u, c.h*0.12, 60*u, c.h*0.5, c.accent, 1)
	c.circle(x, c.h*0.34, 10*u, c.deep, 1)
	c.shape(c.deep, 1, x-15*u, c.h*0.62, x-13*u, c.h*0.39, x+13*u, c.h*0.39, x+15*u, c.h*0.62)
	c.shape(c.deep, 0.6, x-14*u, c.h*0.62, x+14*u, c.h*0.62, x+52*u, c.h, x-52*u, c.h)
}

// blinds draws an eye behind blinds.
func (c *canvas) blinds() {
	u := c.unit()
	x, y := c.w*c.between(0.4, 0.6), c.h*c.between(0.3, 0.4)
	c.circle(x, y, 70*u, c.accent, 0.9)
	c.circle(x, y, 30*u, c.paper, 1)
	c.circle(x, y, 15*u, c.deep, 1)
	for i := 0; float64(i)*17*u < c.h; i++ {
		high := 9.0
		if math.Abs(float64(i)*17*u-y) < 12*u {
			high = 4
		}
		c.rect(0, float64(i)*17*u, c.w, high*u, c.deep, 0.9)
	}
}

// curtain draws a half-open stage curtain.
func (c *canvas) curtain() {
	u := c.unit()
	c.circle(c.w/2, c.h*0.4, 60*u, c.accent, 0.9)
	for i := 0; float64(i)*11*u < c.w*0.36; i++ {
		x, fill := float64(i)*11*u, []string{c.mid, c.deep}[i%2]
		drop := c.h * (0.72 - 0.0011*x*x/u/u)
		c.shape(fill, 1, x, 0, x+11*u, 0, x+9*u, drop, x, drop)
		c.shape(fill, 1, c.w-x, 0, c.w-x-11*u, 0, c.w-x-9*u, drop, c.w-x, drop)
	}
	c.rect(0, c.h*0.7, c.w, c.h*0.3, c.deep, 1)
}
