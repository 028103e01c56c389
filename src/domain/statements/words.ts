import type { Direction } from './bidi.ts'
import type { Language } from './statement.ts'

/** What a statement says in one language, besides what it is given. */
interface Words {
  statement: string
  number: string
  issuedOn: string
  period: string
  solarHijri: string
  gregorian: string
  patient: string
  patientId: string
  phone: string
  email: string
  account: string
  registration: string
  date: string
  description: string
  reference: string
  amount: string
  currency: string
  balance: string
  opening: string
  totals: string
  charged: string
  paid: string
  closing: string
  ageing: string
  /** Days owed: up to 30, to 60, to 90, more. */
  days: [string, string, string, string]
  slip: string
  due: string
  amountDue: string
  nothingDue: string
  noLines: string
  continued: string
  /** Ends with the number of all pages, which is known last. */
  page: (page: string) => string
}

export const WORDS: Record<Language, Words> = {
  'fa-AF': {
    statement: 'صورت‌حساب',
    number: 'شماره',
    issuedOn: 'تاریخ صدور',
    period: 'دوره',
    solarHijri: 'هجری شمسی',
    gregorian: 'میلادی',
    patient: 'مریض',
    patientId: 'شمارهٔ مریض',
    phone: 'تلفون',
    email: 'ایمیل',
    account: 'حساب',
    registration: 'نمبر تشخیصیه',
    date: 'تاریخ',
    description: 'شرح',
    reference: 'کود',
    amount: 'مبلغ',
    currency: 'اسعار',
    balance: 'بیلانس',
    opening: 'بیلانس ابتدایی',
    totals: 'مجموع',
    charged: 'مصارف',
    paid: 'پرداخت‌ها',
    closing: 'بیلانس نهایی',
    ageing: 'مدت قرض',
    days: ['تا ۳۰ روز', '۳۱ تا ۶۰ روز', '۶۱ تا ۹۰ روز', 'بیش از ۹۰ روز'],
    slip: 'ورقهٔ پرداخت',
    due: 'قابل پرداخت الی',
    amountDue: 'مبلغ قابل پرداخت',
    nothingDue: 'چیزی قابل پرداخت نیست',
    noLines: 'در این دوره معامله‌ای نبود',
    continued: 'ادامه',
    page: (page) => `صفحهٔ ${page} از`,
  },
  'ps-AF': {
    statement: 'د حساب بیان',
    number: 'شمېره',
    issuedOn: 'د صدور نېټه',
    period: 'موده',
    solarHijri: 'هجري لمریز',
    gregorian: 'میلادي',
    patient: 'ناروغ',
    patientId: 'د ناروغ شمېره',
    phone: 'ټلیفون',
    email: 'برېښنالیک',
    account: 'حساب',
    registration: 'د مالیې شمېره',
    date: 'نېټه',
    description: 'تفصیل',
    reference: 'کوډ',
    amount: 'مبلغ',
    currency: 'اسعار',
    balance: 'بیلانس',
    opening: 'لومړنی بیلانس',
    totals: 'ټولټال',
    charged: 'لګښتونه',
    paid: 'تادیات',
    closing: 'وروستی بیلانس',
    ageing: 'د پور موده',
    days: ['تر ۳۰ ورځو', 'له ۳۱ تر ۶۰ ورځو', 'له ۶۱ تر ۹۰ ورځو', 'له ۹۰ ورځو زیات'],
    slip: 'د تادیې پاڼه',
    due: 'د تادیې وروستۍ نېټه',
    amountDue: 'د تادیې مبلغ',
    nothingDue: 'هېڅ د تادیې وړ نه دي',
    noLines: 'په دې موده کې معامله نه وه',
    continued: 'دوام',
    page: (page) => `مخ ${page} له`,
  },
  ar: {
    statement: 'كشف حساب',
    number: 'الرقم',
    issuedOn: 'تاريخ الإصدار',
    period: 'الفترة',
    solarHijri: 'هجري شمسي',
    gregorian: 'ميلادي',
    patient: 'المريض',
    patientId: 'رقم المريض',
    phone: 'الهاتف',
    email: 'البريد الإلكتروني',
    account: 'الحساب',
    registration: 'الرقم الضريبي',
    date: 'التاريخ',
    description: 'البيان',
    reference: 'الرمز',
    amount: 'المبلغ',
    currency: 'العملة',
    balance: 'الرصيد',
    opening: 'الرصيد الافتتاحي',
    totals: 'الإجمالي',
    charged: 'الرسوم',
    paid: 'المدفوعات',
    closing: 'الرصيد الختامي',
    ageing: 'أعمار الديون',
    days: ['حتى ٣٠ يومًا', 'من ٣١ إلى ٦٠ يومًا', 'من ٦١ إلى ٩٠ يومًا', 'أكثر من ٩٠ يومًا'],
    slip: 'قسيمة الدفع',
    due: 'يستحق في',
    amountDue: 'المبلغ المستحق',
    nothingDue: 'لا يوجد مبلغ مستحق',
    noLines: 'لا توجد حركات في هذه الفترة',
    continued: 'تابع',
    page: (page) => `صفحة ${page} من`,
  },
  en: {
    statement: 'Statement of account',
    number: 'Number',
    issuedOn: 'Issued on',
    period: 'Period',
    solarHijri: 'Solar Hijri',
    gregorian: 'Gregorian',
    patient: 'Patient',
    patientId: 'Patient number',
    phone: 'Phone',
    email: 'E-mail',
    account: 'Account',
    registration: 'Tax number',
    date: 'Date',
    description: 'Description',
    reference: 'Code',
    amount: 'Amount',
    currency: 'Cur.',
    balance: 'Balance',
    opening: 'Opening balance',
    totals: 'Totals',
    charged: 'Charged',
    paid: 'Paid',
    closing: 'Closing balance',
    ageing: 'Owed for',
    days: ['up to 30 days', '31 to 60 days', '61 to 90 days', 'over 90 days'],
    slip: 'Payment slip',
    due: 'Due on',
    amountDue: 'Amount due',
    nothingDue: 'Nothing is due',
    noLines: 'Nothing was charged or paid in this period',
    continued: 'continued',
    page: (page) => `Page ${page} of`,
  },
}

export const directionOf = (language: Language): Direction => (language === 'en' ? 'ltr' : 'rtl')
