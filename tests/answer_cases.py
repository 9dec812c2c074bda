"""Ground truth, answer, whether it is right: the smallest inputs of failures that were reported or found, by kind."""

KINDS: dict[str, list[tuple[str, str, int]]] = {
    "equations without a real solution": [
        ("x^2+1=0", "x^2+2=0", 0), ("x^2-4x+5=0", "x^2+9=0", 0), (r"\sin x=2", r"\cos x=2", 0), ("x=x+1", "y=y+1", 0),
        ("x^2+1=0", "2x^2+2=0", 1), ("x^2+1=0", "x^2=-1", 1), ("e^x=-1", "e^x=-2", 0), ("|x|=-1", "|x|=-2", 0),
    ],
    "derivatives are no zeros": [
        (r"\frac{dy}{dx}=1", r"\frac{dy}{dx}=2", 0), (r"m \frac{dv}{dt}+bv=f", "bv=f", 0), (r"\frac{dy}{dx}", "0", 0),
        (r"\frac{d^2y}{dx^2}+y=0", "y=0", 0),
        (r"\frac{\partial u}{\partial t}=k", r"\frac{\partial u}{\partial x}=k", 0),
        (r"m\frac{dv}{dt}+bv=f", r"f=bv+\frac{dv}{dt} m", 1),
    ],
    "a last letter is no unit": [
        ("3t", "3", 0), (r"\pi r^2 h", r"\pi r^2", 0), ("v_0 t", "v_0 h", 0), (r"\frac{1}{m} t", r"\frac{1}{m}", 0),
        (r"\frac{1}{\sqrt{2}}c", r"\frac{1}{\sqrt{2}}", 0), ("a + b + c", "c+b+a", 1),
        (r"\frac{1}{3}x^3 + c", "x^3/3+c", 1), ("2ab", "2", 0), ("2s", "2", 0), ("xo", "x", 0),
    ],
    "what stands behind text counts": [
        (r"5 \text{ ft } 6 \text{ in}", r"5 \text{ ft } 7 \text{ in}", 0), (r"n \text{ odd}", r"n \text{ even}", 0),
        (r"x \text{ rational}", r"x \text{ irrational}", 0), (r"p \text{ prime}", "p", 0),
        ("7", r"7 \text{ (case 1), } 8 \text{ (case 2)}", 0),
        (r"2 \text{ hours } 5 \text{ minutes}", r"2 \text{ hours } 6 \text{ minutes}", 0),
        ("7", r"7 \text{ or } 8", 0), (r"5 \text{ ft } 6 \text{ in}", r"5\text{ ft }6\text{ in}", 1),
    ],
    "capitals are other names": [
        ("R-r", "0", 0), (r"\frac{R}{r}", "1", 0), ("2Rr", "2r^2", 0), ("Nn", "n^2", 0), ("2RC+R+C", "2RC+r+C", 0),
        ("2RC+R+C", "C+R+2CR", 1), (r"\Gamma-\gamma", "0", 0), (r"\Delta", r"\delta", 0), ("I^2 R", "-R", 0),
        ("E=mc^2", "e=mc^2", 0),
    ],
    "small exact values": [
        ("2^{-60}", "2^{-61}", 0), (r"\frac{3}{4^{30}}", r"\frac{1}{4^{30}}", 0),
        (r"\frac{1}{52!}", r"\frac{1}{51!}", 0), ("2^{-60}", r"\frac{1}{4^{30}}", 1),
        (r"10^{-20}\pi", r"10^{-21}\pi", 0), (r"\frac{1}{52!}", r"\frac{53}{53!}", 1),
    ],
    "small decimals": [
        ("0.0000001", "0.0000003", 0), (r"1.6\times10^{-19}", r"9\times10^{-31}", 0),
        (r"1.6\times10^{-19}", "0.0", 0), (r"1.6\times10^{-19}", "1.6e-19", 1), ("0.0000001", "10^{-7}", 1),
        ("1.6e-19", "1.60e-19", 1), ("1.6e-19", "1.61e-19", 0),
    ],
    "what is zero": [
        ("0", r"\sin^2 x+\cos^2 x-1", 1), ("0", "(x+1)^2-x^2-2x-1", 1),
        ("0", r"\sqrt{2}\sqrt{3}-\sqrt{6}", 1), ("0", r"\sin\pi", 1),
        ("0", r"\frac{1}{52!}", 0), (r"\frac{x}{52!}", r"\frac{x}{51!}", 0),
        (r"2^{-120}x", r"2^{-121}x", 0), ("0", r"2^{-120}x", 0),
        (r"2^{-120}x", r"\frac{x}{4^{60}}", 1),
    ],
    "gamma is a name": [
        (r"\gamma^2-1", r"\gamma^2-5", 0), (r"2\gamma", r"\gamma\cdot 2", 1),
        (r"\alpha+\beta+\gamma", r"\gamma+\beta+\alpha", 1), (r"\frac{1}{\gamma}", r"\gamma^{-1}", 1),
        (r"\frac{1}{\gamma}", r"\gamma", 0), (r"\gamma mc^2", "mc^2", 0),
    ],
    "bases": [
        ("52_8", "52_7", 0), ("1011_2", "(1011)_2", 1), ("(1011)_{2}", "1011_2", 1), ("1011_2", "1010_2", 0),
        (r"\text{2A}_{16}", "2A_{16}", 1), ("52_{8}", "52_8", 1),
    ],
    "primes": [
        ("x'", "x", 0), ("y''+y=0", "y'+y=0", 0), ("f'(x)", "f(x)", 0), ("A'B'", "AB", 0),
        (r"y^{\prime}+y=0", "y'+y=0", 1), (r"y^{\prime\prime}+y=0", "y''+y=0", 1),
        ("f''(x)", r"f^{\prime\prime}(x)", 1),
    ],
    "e-notation and bare points": [
        ("3e8", r"3\times10^8", 1), ("3.89e-10", r"3.89\times10^{-10}", 1), ("3.89e-10", r"3.88\times10^{-10}", 0),
        ("-1./3", r"-\frac13", 1), ("3.", "3", 1), ("1000", "1e3", 1), ("3e8", "300000000", 1), ("3e8", "3e9", 0),
        (".5", "0.5", 1), ("2.5e3", "2500", 1), ("3e8", r"3 \cdot 10^8", 1),
    ],
    "the imaginary unit": [
        ("2i", "2 i", 1), ("2i", r"2\cdot i", 1), ("3+4i", r"3+4\mathrm{i}", 1), (r"4-\mathrm{i}", "4-i", 1),
        ("5", "(1+2i)(1-2i)", 1), ("2i", "2", 0), ("3+4i", "3-4i", 0), ("i", "-i", 0),
    ],
    "Euler's number": [
        (r"\mathrm{e}^3", "e^3", 1), (r"1-\frac{1}{\mathrm{e}}", "1-e^{-1}", 1), (r"\mathrm{e}^3", "e^2", 0),
        (r"\exp(2)", "e^2", 1),
    ],
    "percent": [
        (r"\frac13\%", r"\frac{1}{3}\%", 1), (r"33\frac13\%", r"33\frac{1}{3}\%", 1), (r"20\%", r"20\,\%", 1),
        (r"12.5\%", "12.5", 1), (r"50\%", "50", 1), ("17.5%", r"17.5\%", 1), (r"20\%", "20 percent", 1),
        (r"20\%", r"20\text{ percent}", 1), (r"20\%", r"21\%", 0), ("12.5", r"12.5\%", 1), (r"12.5\%", "0.125", 1),
    ],
    "fractions without braces, sized brackets": [
        (r"\frac{1}{\pi}", r"\frac1\pi", 1), (r"\frac{2}{\pi}", r"\dfrac2\pi", 1), ("(1,2)", r"\bigl( 1,2 \bigr)", 1),
        (r"\frac{\pi}{2}", r"\frac\pi2", 1), (r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt3}2", 1),
        (r"\frac{1}{\pi}", r"\frac2\pi", 0),
    ],
    "plus or minus": [
        (r"2,3,\frac{3+i\sqrt3}{2},\frac{3-i\sqrt3}{2}", r"2,3,\frac{3\pm i\sqrt3}{2}", 1),
        (r"2,3,\frac{3\pm i\sqrt3}{2}", r"2,3,\frac{3+i\sqrt3}{2},\frac{3-i\sqrt3}{2}", 1),
        (r"y=\pm\sqrt{3}x", r"y=\sqrt{3}x,y=-\sqrt{3}x", 1), (r"\frac{3\pm\sqrt5}{2}", r"\frac{3+\sqrt5}{2}", 0),
        (r"\pm 2", "2,-2", 1), (r"x=\pm 2", r"\pm2", 1),
    ],
    "leading words": [
        ("4", r"\text{Speed} = 4 \text{ in/s}", 1), ("54", r"\text{The area is } 54", 1),
        ("54", r"\text{The area is } 55", 0), ("4", r"\text{Speed} = 5 \text{ in/s}", 0),
        ("54", r"\text{not } 54", 0),
    ],
    "signs typed as characters": [
        ("90", "90°", 1), ("125°", "125", 1), (r"\sqrt{2}", "√2", 1), (r"2\sqrt{5}", "2√5", 1),
        (r"\sqrt{53}", "√53", 1), ("x^2", "x²", 1), ("x^3+x", "x³+x", 1), (r"\frac12", "½", 1), (r"\infty", "∞", 1),
        ("-3", "–3", 1), ("7", "７", 1), ("7", "7。", 1), ("36", "36°", 1), (r"x \ge 2", "x≥2", 1),
        ("x^{10}", "x¹⁰", 1), ("x_1", "x₁", 1), ("3", "–3", 0),
    ],
    "a full stop": [
        ("7", "7.", 1), (r"(-\infty,0) \cup\{1\}.", r"(-\infty,0)\cup\{1\}", 1), ("x+1.", "x+1", 1),
        (r"\frac{1}{2}.", "0.5", 1),
    ],
    "thousands and ties": [
        ("1000", r"1\,000", 1), ("10", r"10~\text{cm}", 1), ("10", r"10\ \text{cm}", 1), ("1000", "1{,}000", 1),
        ("1234567", r"1\,234\,567", 1), ("1000", r"1\,001", 0),
    ],
    "sets by a condition, chains": [
        (r"\{x \mid x>0\}", r"(0,\infty)", 1), (r"\{x|-2\leq x<1\}", "[-2,1)", 1),
        (r"(-\infty,2)\cup(3,\infty)", r"x<2 \text{ or } x>3", 1), ("b>a>c", "c<a<b", 1), ("b>a>c", "c<b<a", 0),
        (r"\{x|-2\leq x<1\}", "[-2,1]", 0), (r"\{x|x>0\}", "x>0", 1),
        (r"x \geq -3, x \neq 0", r"[-3,0)\cup(0,\infty)", 1),
    ],
    "synonyms": [
        (r"\emptyset", r"\varnothing", 1), (r"\log_e 5", r"\ln 5", 1), (r"\lg 5", r"\log_{10} 5", 1),
        (r"\arctan 2", r"\operatorname{arctan} 2", 1), (r"90^\circ", r"90\degree", 1), ("7", r"\boldsymbol{7}", 1),
        ("7", r"\underline{7}", 1), ("5", "£5", 1), ("5", "€5", 1), ("5", "5 dollars", 1),
        (r"\text{June 20}", "June 20", 1), (r"\text{June 20}", "June 21", 0), (r"\$5", "€5", 0),
    ],
    "degrees within a function": [
        (r"\sin 30^\circ", r"\frac12", 1), (r"\tan 15^\circ", r"\tan 15", 0), (r"\cos 60^\circ", "0.5", 1),
        (r"2\sin 20^\circ", r"2\sin\frac{\pi}{9}", 1),
    ],
    "bound variables": [
        (r"\sum_{k=1}^{n}k^3", r"\sum_{i=1}^{n}i^3", 1), (r"\sum_{k=1}^{n}k^3", r"\sum_{i=1}^{n}i^2", 0),
        (r"\prod_{k=1}^{n}(k+1)", r"\prod_{j=1}^{n}(j+1)", 1), (r"\sum_{k=1}^{n}k^3", r"\sum_{k=0}^{m}k^3", 0),
    ],
    "row spacing": [
        (r"\begin{pmatrix}2\\-1\end{pmatrix}", r"\begin{pmatrix}2\\[4pt]-1\end{pmatrix}", 1),
        (r"\begin{pmatrix}2\\-1\end{pmatrix}", r"\begin{pmatrix}2\\ 1\end{pmatrix}", 0),
    ],
    "units outside text": [
        ("15", "15 cm^2", 1), ("15", "15 cm²", 1), ("4", r"4 \frac{\text{in}}{\text{s}}", 1),
        ("65", r"65 \, cubic \, units", 1), (r"15\text{ cm}^2", "15 cm^3", 0), ("15", "16 cm^2", 0),
        ("22.1cm^{2}", r"22.1\text{ cm}^2", 1), ("9.8", r"9.8 \mathrm{~m} / \mathrm{s}^{2}", 1),
        ("30.12", "About 30.12 miles per hour", 1),
    ],
    "judged on purpose": [
        (r"1\frac14", "1 1/4", 1), ("2", "2 2/3", 0), (r"\frac{1}{\sqrt n}", r"\sqrt{1/n}", 0), ("7", r"\fbox{7}", 0),
        ("7", "**7**", 0), ("(0,12)", "0<x<12", 0), ("0<x<12", "(0,12)", 1), ("listen", "silent", 0),
        ("odd", "even", 0), ("7", "8=7", 0), ("7", "7=x", 1),
        ("7=x", "7", 1), (r"\log_8 4=\frac23", r"\frac{2}{3}", 1), ("7", "8=x", 0), ("n=2,3,4", "2,3,4", 1),
        ("12:00", "12:30", 0), ("n=3k", "3", 0),
        ("033", "33", 1), ("12^{10}", "12^{11}", 0), ("Navin", "Navin", 1), (r"864 \mbox{ inches}^2", "864", 1),
        ("Ellipse", r"\text{ellipse}", 1), ("D=(0,1)", "(0,1)", 1), (r"\nan", r"\nan", 1),
        (r"\frac{1}{0}", r"\frac{2}{0}", 0), (r"\infty", r"-\infty", 0), (r"\infty", r"+\infty", 1),
        (r"\text{no solution}", r"\text{two solutions}", 0),
    ],
}  # fmt: skip
