"""Sentences for the goldens: many scripts, all lengths, and the awkward ones.

Everything is assembled from the phrases below by a seeded generator, so a
golden can be remade anywhere and belongs to nobody else.
"""

import random

# Clauses that may follow one another; one list a language or register.
CLAUSES = {
    "english": [
        "the ferry left before the fog had lifted",
        "nobody at the station remembered the old timetable",
        "her second novel sold better than the first",
        "interest rates rose by a quarter of a point",
        "the kettle whistled while we argued about chess",
        "a small dog slept under the accountant's desk",
        "rain is expected along the northern coast tonight",
        "the committee postponed its decision until March",
        "please restart the server and clear the cache",
        "two engineers measured the bridge in 1987",
    ],
    "technical": [
        "matrix multiplication dominates the running time",
        "HTTP/2 multiplexes streams over one connection",
        "call free() exactly once for every malloc()",
        "error 0x80070057: the parameter is incorrect",
        "f(x) = 3x^2 + 2x - 1 has two real roots",
        "SELECT name FROM users WHERE age >= 21",
        "mail support@example.com or see https://example.com/a?b=c&d=%20",
        "version 2.10.3-rc.1 replaces version 2.9.14",
    ],
    "german": [
        "die Straßenbahn fährt heute nicht über die Brücke",
        "größere Änderungen müssen vorher geprüft werden",
        "der Bäcker öffnet schon um fünf Uhr früh",
        "Donaudampfschifffahrtsgesellschaft ist ein langes Wort",
    ],
    "french": [
        "l'élève a oublié son cahier à l'école",
        "où est passée la clé de la cave",
        "le garçon naïf préfère les œufs brouillés",
        "il pleuvait déjà lorsque nous sommes arrivés",
    ],
    "spanish": [
        "el niño pequeño aún no sabe nadar",
        "¿cuánto cuesta un billete a Málaga?",
        "mañana llegarán los pingüinos al acuario",
    ],
    "polish": ["zażółć gęślą jaźń", "wczoraj pociąg znów się spóźnił", "źródło rzeki leży w górach"],
    "turkish": ["İstanbul'da hava bugün çok güzel", "ışıklar geceleyin kıyıda parlıyor"],
    "vietnamese": ["hôm nay trời nhiều mây và có mưa", "chúng tôi uống cà phê ở góc phố"],
    "russian": [
        "поезд опоздал на двадцать минут",
        "ёжик нёс яблоко через тихий сад",
        "в музее открылась новая выставка",
    ],
    "ukrainian": ["її їжак з'їв яблуко на ґанку"],
    "greek": ["η θάλασσα ήταν ήρεμη το πρωί", "ο Οδυσσέας γύρισε στο σπίτι"],
    "arabic": ["القطار يصل في الساعة الثامنة", "شربنا القهوة في المقهى القديم"],
    "hebrew": ["הרכבת יוצאת בשמונה בבוקר", "הילדים משחקים בגן"],
    "hindi": ["आज सुबह बहुत ठंड थी", "बच्चे बगीचे में खेल रहे हैं"],
    "bengali": ["আজ সকালে বৃষ্টি হয়েছে"],
    "tamil": ["இன்று காலை மழை பெய்தது"],
    "thai": ["วันนี้อากาศดีมาก", "รถไฟมาถึงตอนแปดโมง"],
    "chinese": ["今天早上火车晚点了二十分钟", "我們在街角的咖啡館見面", "请重新启动服务器"],
    "japanese": ["今朝は電車が二十分遅れた", "コーヒーを飲みながら本を読む", "ﾊﾝｶｸ文字とＦＵＬＬＷＩＤＴＨ"],
    "korean": ["오늘 아침 기차가 늦었다", "아이들이 공원에서 놀고 있다"],
    "georgian": ["დღეს კარგი ამინდია"],
    "emoji": ["🚂 was late again 😤", "👩‍👩‍👧‍👦 at the 🏖️", "🇨🇭🇯🇵🇧🇷 👍🏽 ❤️‍🔥", "ok 👌 done ✅"],
}

# Each is a text on its own: what a tokenizer meets by accident or malice.
AWKWARD = [
    "",
    " ",
    "\t\n\r",
    "\u00a0\u2003\u3000",
    "a",
    ".",
    "!!!???...",
    "Ω",
    "的",
    "🦀",
    "\ufeffbyte order mark",
    "nul\x00inside",
    "bell\x07 escape\x1b[31mred\x1b[0m delete\x7f",
    "soft\u00adhyphen zero\u200bwidth joiner\u200dhere",
    "right-to-left \u202eoverride\u202c ends",
    "line\nbreaks\r\nof\u2028every\u2029kind\x85here",
    "private use \ue000\uf8ff and replacement \ufffd",
    "noncharacters \ufffe \uffff",
    "astral \U0001d54f\U0001f9ec\U00020000\U000e0041",
    "e\u0301 is é, A\u030a is Å, \u1100\u1161\u11a8 is 각",
    "Z͑ͫa̷l̶g̵o̴ ̸t̷e̶x̵t̴",
    "ALL CAPS SHOUTING ABOUT NOTHING",
    "mIxEd CaSe İIıi ẞß ǅ ﬁne ﬀort",
    "[CLS] special [SEP] tokens [MASK] in [PAD] text [UNK]",
    "<s> other </s> special <pad> tokens <mask> too",
    "x" * 99,
    "x" * 100,
    "x" * 101,
    "antidisestablishmentarianism" * 8,
    "a-b-c-d-e-f-g_h_i_j",
    "don't can't won't it's 'quoted' ``ticks'' “curly” ‘single’",
    "3.14159 1,000,000 1e-9 50% $5 €6 £7 ¥8 №9 ²³¼",
    "१२३ ١٢٣ 一二三 Ⅻ ①②③",
    "C:\\Users\\name\\file.txt /usr/local/bin ~/.config",
    "{\"json\": [1, 2.5, null, true]}",
    "<p class=\"x\">html &amp; entities</p>",
    "∀x∈ℝ: ⌈x⌉ ≥ x ∧ ∑ᵢ xᵢ → ∞",
    "─│┌┐└┘ █▓▒░ ♔♕♖",
    "mixed 中文 and English и русский עם עברית",
    "trailing spaces   and   inner   runs   ",
]


def grow(rng: random.Random, language: str, clauses: int) -> str:
    """A text of `clauses` clauses of one language, punctuated."""
    text = ""
    for _ in range(clauses):
        clause = rng.choice(CLAUSES[language])
        if rng.random() < 0.5:
            clause = clause[:1].upper() + clause[1:]
        text += (" " if text else "") + clause + rng.choice([".", ".", ",", ";", " -", "!", "?", ""])
    return text


def of_length(rng: random.Random, language: str, tokens: int, count) -> str:
    """A text that `count` measures as `tokens`, or the next more it can reach.

    Takes whole clauses while they fit, then single characters.
    """
    text = ""
    while count(longer := grow(rng, language, 1) if not text else f"{text} {grow(rng, language, 1)}") <= tokens:
        text = longer
    for char in longer[len(text):]:
        if count(text) >= tokens:
            break
        text += char
    return text


def sentences(count, number: int = 200, longest: int = 256, seed: int = 11) -> list[str]:
    """`number` texts: the awkward ones, then lengths spread evenly up to `longest`.

    `count(text)` is the length in tokens, special tokens included. The last
    two texts are longer than `longest` and must be cut.
    """
    rng = random.Random(seed)
    texts = list(AWKWARD)
    languages = list(CLAUSES)
    even = number - len(texts) - 2
    for i in range(even):
        tokens = 3 + round(i * (longest - 3) / (even - 1))
        # English and technical text are half of all.
        language = languages[i % len(languages)] if i % 2 else languages[i // 2 % 2]
        texts.append(of_length(rng, language, tokens, count))
    texts.append(of_length(rng, "english", longest + 1, count))
    texts.append(of_length(rng, "chinese", 2 * longest, count))
    return texts
