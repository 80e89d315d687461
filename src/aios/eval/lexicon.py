"""Words that mean the same, by the part they play in a sentence: what `retrieval` makes passages and questions of.

A line is a concept, its words separated by strokes. Verbs are "past base" pairs. A phrase may have several words.
"""

from __future__ import annotations

import re

PEOPLE = """
doctor|physician|medic
lawyer|attorney|solicitor
sailor|mariner|seaman
thief|burglar|robber
youngster|child|kid
boss|supervisor|manager
chef|cook
novelist|author|writer
soldier|trooper|infantryman
policeman|constable|cop
singer|vocalist|crooner
judge|magistrate
merchant|trader|dealer
pupil|student|learner
priest|clergyman|vicar
pilot|aviator|airman
carpenter|joiner|woodworker
guest|visitor|caller
king|monarch|sovereign
nurse|caregiver|orderly
engineer|technician
detective|sleuth|investigator
actor|performer|thespian
gardener|groundskeeper|landscaper
shepherd|herdsman
beggar|panhandler|pauper
lodger|tenant|renter
boxer|prizefighter|pugilist
professor|scholar|academic
driver|chauffeur
translator|interpreter
millionaire|tycoon|magnate
journalist|reporter|correspondent
seamstress|tailor|dressmaker
grandmother|granny
infant|baby|newborn
spy|undercover agent|mole
magician|conjurer|illusionist
farmer|grower|ploughman
butler|manservant|valet
bandit|outlaw|highwayman
rival|competitor|opponent
stranger|unknown person|outsider
crook|swindler|con man
hermit|recluse|loner
dentist|tooth surgeon
banker|financier|moneylender
poet|bard|rhymer
"""

ACTIONS = """
bought buy|purchased purchase|acquired acquire
repaired repair|mended mend|fixed fix
discovered discover|found find|came across come across
lost lose|misplaced misplace
stole steal|swiped swipe|pinched pinch
hid hide|concealed conceal|stashed stash
built build|constructed construct|assembled assemble
wrecked wreck|destroyed destroy|demolished demolish
cleaned clean|washed wash|scrubbed scrub
discarded discard|threw away throw away|dumped dump
donated donate|gave away give away
photographed photograph|took a picture of take a picture of|snapped snap
praised praise|commended commend|applauded applaud
hauled haul|carried carry|lugged lug
craved crave|wanted want|desired desire
copied copy|duplicated duplicate|reproduced reproduce
inspected inspect|examined examine|looked over look over
received receive|was given get given|got get
forgot forget|left behind leave behind
burned burn|set fire to set fire to|torched torch
adorned adorn|decorated decorate
swapped swap|exchanged exchange|bartered barter
buried bury|interred inter
wrapped wrap|packaged package
sketched sketch|drew draw
watched watch|observed observe|kept an eye on keep an eye on
smuggled smuggle|sneaked sneak
auctioned auction|put up for sale put up for sale
mocked mock|made fun of make fun of|ridiculed ridicule
altered alter|changed change|modified modify
"""

OBJECTS = """
bicycle|two-wheeler|bike
automobile|car
sofa|couch|settee
boat|vessel|ship
gem|jewel|precious stone
coat|jacket|parka
rug|carpet
rifle|firearm|gun
cellphone|mobile
suitcase|luggage|trunk
flask|bottle
mug|cup
letter|missive|written message
diary|journal|notebook
map|chart|atlas
hound|dog
kitten|young cat
steed|horse|stallion
pastry|cake|gateau
pills|tablets|medication
spectacles|eyewear|glasses
wristwatch|timepiece
trousers|pants|slacks
boots|footwear|shoes
computer|laptop|workstation
newspaper|gazette|daily
cash|money|banknotes
wallet|billfold
gift|present
shed|hut|shack
axe|hatchet
spade|shovel
saucepan|cooking pot
curtain|drape
pillow|cushion
blanket|quilt|bedspread
violin|fiddle
statue|sculpture
mirror|looking glass
candy|sweets
rubbish|garbage|trash
coffin|casket
tent|canvas shelter
dagger|knife|blade
hat|cap|bonnet
necklace|pendant
lantern|lamp
bucket|pail
scarf|shawl
barrel|cask|keg
clock|chronometer
fruit|apples
robe|gown|dress
broom|sweeping brush
puppet|doll|marionette
rope|cord
parcel|package|shipment
fence|railing|barrier
"""

PLACES = """
forest|woods|woodland
city|metropolis|urban centre
shop|store|boutique
street|avenue|road
ocean|sea
beach|shore|seaside
mountain|summit|peak
river|stream|brook
cellar|basement
attic|loft
hospital|clinic|infirmary
church|chapel
prison|jail
airport|aerodrome|airfield
harbour|docks|port
hotel|inn
restaurant|diner|eatery
office|workplace
factory|manufacturing plant
ranch|farm|homestead
cinema|movie theatre
tavern|pub|bar
cemetery|graveyard
village|hamlet
subway|underground|metro
apartment|flat
market|bazaar
island|isle
cave|cavern|grotto
stadium|arena
courtyard|patio
castle|fortress
swamp|marsh|bog
meadow|pasture|grassland
"""

TIMES = """
autumn|fall
dawn|daybreak|sunrise
dusk|nightfall|sunset
noon|midday
vacation|holiday
storm|tempest
war|armed conflict
wedding|marriage ceremony
drought|dry spell
flood|deluge
strike|walkout
banquet|feast
epidemic|outbreak of disease
blizzard|snowfall
funeral|burial service
parade|procession
"""

QUALITIES = """
ancient|age-old
broken|damaged
costly|expensive|pricey
inexpensive|cheap
tiny|little|small
enormous|huge|gigantic
gorgeous|beautiful|lovely
hideous|ugly|unsightly
soaked|drenched|wet
filthy|dirty|grubby
weighty|heavy
peculiar|odd|weird
uncommon|rare|scarce
renowned|famous|celebrated
shabby|threadbare|worn-out
gleaming|shiny
foreign|imported
counterfeit|fake|forged
modern|contemporary
worthless|useless
fragile|delicate
silken|satin
crimson|red
fragrant|sweet-smelling
"""

MOODS = """
frightened|afraid|scared
wealthy|rich
unhappy|sad|sorrowful
furious|angry
exhausted|tired|weary
ill|sick|unwell
glad|joyful|delighted
bored|fed up
curious|nosy|inquisitive
tipsy|drunk|intoxicated
penniless|broke|impoverished
envious|jealous
rushed|in a hurry
hungry|starving|famished
ashamed|embarrassed
certain|sure|convinced
"""

FILLERS = (
    "Nobody in the household spoke about it until much later.",
    "It was mentioned only once, and in passing.",
    "A cousin remembers the whole affair rather differently.",
    "There is a short note about this in the margin.",
    "Two witnesses gave the same account independently.",
    "What followed is told in the next chapter.",
    "Some details of the story have never been explained.",
    "The records say nothing more about that day.",
)

FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
a about after again all an and any are as at away be because been before behind being but by can come did do does during
ever eye fire for from fun get give given got had has have he her him his how i in into is it its just keep leave look
made make more most near no nobody not of off on once only or our out over own picture put sale set she so some such
take than that the their them then there these they thing this those through to too took under until up upon very was we
were what when where which while who whom whose why will with would you
""",
    )
)
"""Words that hold a sentence together. A paraphrase may share these with its passage."""
