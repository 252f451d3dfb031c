"""The words that nano's stories, tables and tool calls are made of."""

NAMES = """Tom Anna Ben Mia Sam Lily Max Emma Leo Nora Jack Ella Finn Ruby Hugo Alice Oscar Clara Henry Rosa Paul Vera
Felix Ida Jonas Eva Karl Maya Noah Lucy Peter Sara Simon Julia Victor Olga Martin Laura David Helen Adam Kate Mark Jane
Luke Grace Eric Amy George Zoe Daniel Ivy Frank Dora Oliver Stella Robert Hanna Arthur Molly Bruno Greta Walter Flora
Philip Nina Edgar Pearl Tobias Wendy Conrad Yara Samuel Iris Theo Marta Gabriel Lena""".split()
CITIES = """Paris London Rome Berlin Madrid Vienna Oslo Lisbon Dublin Prague Athens Warsaw Zurich Geneva Milan Naples
Boston Chicago Denver Dallas Seattle Toronto Montreal Tokyo Osaka Kyoto Seoul Delhi Mumbai Cairo Lagos Nairobi Sydney
Melbourne Perth Auckland Lima Bogota Havana Quito Hamburg Munich Cologne Lyon Nice Porto Seville Bergen Helsinki
Stockholm Riga Vilnius Krakow Budapest Zagreb Bern Basel Turin Venice Florence""".split()
ANIMALS = """fox bear rabbit cat dog mouse owl frog duck horse goat sheep wolf deer hen pig cow bird fish turtle lion
tiger monkey elephant squirrel hedgehog badger beaver otter swan goose donkey pony lamb mole raven crow robin sparrow
snail spider bee ant butterfly whale dolphin seal penguin parrot camel giraffe zebra panda koala""".split()
OBJECTS = """key box ball lamp book map coin bell hat shoe cup spoon rope ladder basket kite drum flute ring stone
feather shell lantern bottle mirror clock blanket button candle brush bucket hammer boat wagon letter flag whistle
umbrella puzzle crown acorn pearl scarf mitten violin trumpet telescope compass""".split()
COLOURS = "red green blue yellow orange purple pink brown black white".split()
SIZES = "small big tiny little large old young brave shy clever kind lazy happy quiet proud curious gentle hungry".split()
PLACES = """forest garden river mountain village town meadow lake beach cave castle farm barn island valley hill desert
market bridge tower school library harbour park field kitchen attic cellar mill orchard""".split()
FOODS = """bread cheese soup honey apples pears berries nuts cake pie carrots plums cherries grapes rice beans corn
porridge pancakes cookies butter milk tea""".split()
WEATHER = "sunny rainy windy cold warm snowy foggy stormy cloudy".split()
FEELINGS = "happy sad afraid proud tired glad angry lonely calm surprised".split()
JOBS = """baker farmer doctor teacher painter sailor singer nurse pilot carpenter gardener tailor miller smith writer
driver cook dancer judge lawyer builder dentist plumber waiter""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """January February March April May June July August September October November December""".split()
ROOMS = "kitchen bedroom bathroom hall office garage garden cellar attic study".split()
LANGUAGES = "English French German Spanish Italian Polish Greek Dutch Swedish Danish Turkish Arabic Hindi Korean".split()
INSTRUMENTS = "piano guitar violin flute drums trumpet cello harp".split()
SPORTS = "football tennis chess golf hockey rugby volleyball basketball swimming running".split()
DIGITS = "zero one two three four five six seven eight nine".split()
