"""The 119 languages and dialects of the Qwen3 report (arXiv 2505.09388, table of appendix A).

Codes are ISO 639-3 and ISO 15924, as in FLORES-200. `UDHR` and `GATITOS` say under which names the
Universal Declaration of Human Rights (nltk's udhr2) and the GATITOS word lists have a language.
"""

from __future__ import annotations

from dataclasses import dataclass

# family: "language script name", separated by semicolons
_FAMILIES = {
    "Indo-European": """
        eng Latn English; fra Latn French; por Latn Portuguese; deu Latn German;
        ron Latn Romanian; swe Latn Swedish; dan Latn Danish; bul Cyrl Bulgarian;
        rus Cyrl Russian; ces Latn Czech; ell Grek Greek; ukr Cyrl Ukrainian; spa Latn Spanish;
        nld Latn Dutch; slk Latn Slovak; hrv Latn Croatian; pol Latn Polish; lit Latn Lithuanian;
        nob Latn Norwegian Bokmål; nno Latn Norwegian Nynorsk; pes Arab Persian;
        slv Latn Slovenian; guj Gujr Gujarati; lvs Latn Latvian; ita Latn Italian;
        oci Latn Occitan; npi Deva Nepali; mar Deva Marathi; bel Cyrl Belarusian;
        srp Cyrl Serbian; ltz Latn Luxembourgish; vec Latn Venetian; asm Beng Assamese;
        cym Latn Welsh; szl Latn Silesian; ast Latn Asturian; hne Deva Chhattisgarhi;
        awa Deva Awadhi; mai Deva Maithili; bho Deva Bhojpuri; snd Arab Sindhi; gle Latn Irish;
        fao Latn Faroese; hin Deva Hindi; pan Guru Punjabi; ben Beng Bengali; ory Orya Oriya;
        tgk Cyrl Tajik; ydd Hebr Eastern Yiddish; lmo Latn Lombard; lij Latn Ligurian;
        scn Latn Sicilian; fur Latn Friulian; srd Latn Sardinian; glg Latn Galician;
        cat Latn Catalan; isl Latn Icelandic; als Latn Tosk Albanian; lim Latn Limburgish;
        prs Arab Dari; afr Latn Afrikaans; mkd Cyrl Macedonian; sin Sinh Sinhala; urd Arab Urdu;
        mag Deva Magahi; bos Latn Bosnian; hye Armn Armenian""",
    "Sino-Tibetan": """
        zho Hans Simplified Chinese; zho Hant Traditional Chinese; yue Hant Cantonese;
        mya Mymr Burmese""",
    "Afro-Asiatic": """
        arb Arab Standard Arabic; ars Arab Najdi Arabic; apc Arab Levantine Arabic;
        arz Arab Egyptian Arabic; ary Arab Moroccan Arabic; acm Arab Mesopotamian Arabic;
        acq Arab Ta'izzi-Adeni Arabic; aeb Arab Tunisian Arabic; heb Hebr Hebrew;
        mlt Latn Maltese""",
    "Austronesian": """
        ind Latn Indonesian; zsm Latn Malay; tgl Latn Tagalog; ceb Latn Cebuano;
        jav Latn Javanese; sun Latn Sundanese; min Latn Minangkabau; ban Latn Balinese;
        bjn Latn Banjar; pag Latn Pangasinan; ilo Latn Iloko; war Latn Waray""",
    "Dravidian": """
        tam Taml Tamil; tel Telu Telugu; kan Knda Kannada; mal Mlym Malayalam""",
    "Turkic": """
        tur Latn Turkish; azj Latn North Azerbaijani; uzn Latn Northern Uzbek;
        kaz Cyrl Kazakh; bak Cyrl Bashkir; tat Cyrl Tatar""",
    "Tai-Kadai": "tha Thai Thai; lao Laoo Lao",
    "Uralic": "fin Latn Finnish; est Latn Estonian; hun Latn Hungarian",
    "Austroasiatic": "vie Latn Vietnamese; khm Khmr Khmer",
    "Other": """
        jpn Jpan Japanese; kor Hang Korean; kat Geor Georgian; eus Latn Basque;
        hat Latn Haitian; pap Latn Papiamento; kea Latn Kabuverdianu; tpi Latn Tok Pisin;
        swh Latn Swahili""",
}


@dataclass(frozen=True)
class Language:
    """A language or dialect in the script that it is mostly written in."""

    code: str  # "eng_Latn"
    name: str
    family: str

    @property
    def script(self) -> str:
        return self.code[-4:]


def _table() -> dict[str, Language]:
    rows = [
        (family, *entry.split(maxsplit=2))
        for family, text in _FAMILIES.items()
        for entry in text.split(";")
    ]
    return {
        f"{language}_{script}": Language(f"{language}_{script}", " ".join(name.split()), family)
        for family, language, script, name in rows
    }


LANGUAGES = _table()

# Scripts that put no blanks between words, and scripts that end sentences without a mark.
UNSPACED = {"Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr"}
UNPUNCTUATED = {"Thai", "Laoo", "Khmr", "Mymr"}

# Function words of which running text has at least two (Gopher's rule, and its list for English).
STOP_WORDS = {
    "eng_Latn": frozenset("the be to of and that have with".split()),
    "deu_Latn": frozenset("der die das und ist nicht mit von den zu".split()),
    "fra_Latn": frozenset("le la les de et est une dans pour que".split()),
    "spa_Latn": frozenset("el la los de y que en una por con".split()),
    "por_Latn": frozenset("o a os de e que em uma por com".split()),
    "ita_Latn": frozenset("il la di e che un una per con del".split()),
    "nld_Latn": frozenset("de het een en van is niet met dat op".split()),
    "rus_Cyrl": frozenset("и в не на что с по как это из".split()),
    "pol_Latn": frozenset("i w na z nie do że się jest o".split()),
    "tur_Latn": frozenset("ve bir bu için ile da de olarak çok ne".split()),
    "ind_Latn": frozenset("dan yang di ke dari untuk dengan pada ini itu".split()),
    "vie_Latn": frozenset("và của là có trong cho được các một không".split()),
}

# What tells languages apart that share a script is their words; these have none in the sources.
WITHOUT_TEXT = ("ars_Arab", "acm_Arab", "acq_Arab", "snd_Arab")

# Names of the declaration's files by language, where one is not simply the code's first part.
UDHR = {
    "deu_Latn": ("deu", "deu_1901"),
    "ell_Grek": ("ell_monotonic", "ell_polytonic"),
    "lvs_Latn": ("lav",),
    "oci_Latn": ("lnc",),
    "npi_Deva": ("nep",),
    "srp_Cyrl": ("srp_cyrl",),
    "bos_Latn": ("bos_latn",),
    "por_Latn": ("por_PT", "por_BR"),
    "ron_Latn": ("ron", "ron_1953", "ron_1993"),
    "pes_Arab": ("pes_1", "pes_2"),
    "srd_Latn": ("src",),
    "zho_Hans": ("cmn_hans",),
    "zho_Hant": ("cmn_hant",),
    "zsm_Latn": ("mly_latn",),
    "azj_Latn": ("azj_latn",),
    "uzn_Latn": ("uzn_latn",),
    "hat_Latn": ("hat_popular", "hat_kreyol"),
    "yue_Hant": (),
}
GATITOS = {
    "szl_Latn": "szl",
    "hne_Deva": "hne",
    "awa_Deva": "awa",
    "lmo_Latn": "lmo",
    "lij_Latn": "lij",
    "scn_Latn": "scn",
    "lim_Latn": "li",
    "prs_Arab": "fa-AF",
    "yue_Hant": "yue",
    "apc_Arab": "apc",
    "arz_Arab": "arz",
    "ary_Arab": "ar-MA",
    "aeb_Arab": "aeb",
    "bjn_Latn": "bjn",
    "pag_Latn": "pag",
    "bak_Cyrl": "ba",
    "pap_Latn": "pap",
    "asm_Beng": "as",
}

# Mean characters of a word, marks at its ends included, over each language's declaration of human
# rights: {characters: codes}. A rule on word lengths is relative to it.
_MEANS = {
    3.0: "kor_Hang",
    3.6: "urd_Arab",
    3.8: "pan_Guru",
    3.9: "pes_Arab",
    4.0: "mag_Deva",
    4.1: "hat_Latn",
    4.2: "bho_Deva vie_Latn",
    4.4: "hin_Deva kea_Latn",
    4.5: "fur_Latn tpi_Latn",
    4.7: "arb_Arab heb_Hebr",
    4.9: "nno_Latn swh_Latn",
    5.0: "oci_Latn vec_Latn cym_Latn gle_Latn cat_Latn als_Latn",
    5.1: "eng_Latn fra_Latn fao_Latn srd_Latn afr_Latn",
    5.2: "por_Latn spa_Latn ast_Latn tgk_Cyrl mkd_Cyrl war_Latn",
    5.3: "srp_Cyrl glg_Latn isl_Latn",
    5.4: "bul_Cyrl mai_Deva bos_Latn ceb_Latn",
    5.5: "ron_Latn ces_Latn ell_Grek nld_Latn nob_Latn guj_Gujr npi_Deva ltz_Latn",
    5.6: "hrv_Latn ita_Latn ydd_Hebr tgl_Latn",
    5.7: "dan_Latn slk_Latn slv_Latn",
    5.8: "ukr_Cyrl ilo_Latn",
    5.9: "swe_Latn ben_Beng",
    6.0: "sun_Latn",
    6.1: "mar_Deva bel_Cyrl",
    6.2: "jav_Latn min_Latn azj_Latn tat_Cyrl",
    6.3: "deu_Latn pol_Latn",
    6.4: "rus_Cyrl lit_Latn",
    6.5: "lvs_Latn mlt_Latn tur_Latn",
    6.6: "ind_Latn kaz_Cyrl",
    6.8: "ban_Latn est_Latn hun_Latn",
    6.9: "zsm_Latn uzn_Latn",
    7.0: "hye_Armn eus_Latn",
    7.4: "kat_Geor",
    7.7: "kan_Knda",
    7.8: "fin_Latn",
    9.8: "tam_Taml",
    12.0: "mal_Mlym",
}
WORD_LENGTHS = {code: mean for mean, codes in _MEANS.items() for code in codes.split()}


def word_length(code: str) -> float:
    """Mean word length of a language; of one without a value, the mean over its script's."""
    if code in WORD_LENGTHS:
        return WORD_LENGTHS[code]
    alike = [mean for other, mean in WORD_LENGTHS.items() if other[-4:] == code[-4:]]
    alike = alike or list(WORD_LENGTHS.values())
    return sum(alike) / len(alike)
